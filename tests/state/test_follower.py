# The follower: deltas folded into an empty store give the same serving tables and records, and repeats change nothing.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.tables import RowTable
from state.catalogue import Catalogue, CatalogueItem
from state.deltas import Delta, DeltaLog, decode, encode
from state.dictionary import Dictionary
from state.dump import dump, dump_serving
from state.entry import ENTRY, Entry, pack
from state.follower import Follower, StoreSource
from state.meta import get_version, put_version
from state.offsets import get_offsets, put_offsets
from state.records import Records, read_record
from state.signals import SignalTable
from state.store import Store
from state.tables import save_model
from state.view import View
from tests.state.doubles import TableModel

SIGNALS = SignalTable()


def fold_versions(store: Store, num_versions: int) -> None:
    """What a fold stage does, with events made up."""
    dictionary, records, log = Dictionary(store), Records(store), DeltaLog(store)
    catalogue, rng = Catalogue(store, dictionary), np.random.default_rng(2)
    for version in range(1, num_versions + 1):
        delta = Delta("fold", version, {"events-0": 10 * version}, 100 * version)
        for number in rng.integers(0, 20, 10).tolist():
            user, item = b"u%d" % (number % 4), dictionary.number(f"i{number}")
            row = pack(Entry(100 * version + number, number, item, 1 + number % 4))
            records.get(user).fold(row, SIGNALS)
            delta.users.append(user)
            delta.entries = np.append(delta.entries, np.frombuffer(row, ENTRY))
        if version == 5:
            delta.items.append(CatalogueItem("i1", 5, title="one"))
            catalogue.upsert(delta.items[0])
        if version == 7:
            delta.deleted_users.append((b"gone", 700))
            records.forget(b"gone", 700)
        catalogue.saw(delta.entries["item"], delta.entries["timestamp"])
        with store.write() as txn:
            records.flush(txn)
            catalogue.flush(txn)
            dictionary.flush(txn)
            put_offsets(txn, store, delta.offsets)
            put_version(txn, store, "fold", version)
            log.append(txn, version, encode(delta, dictionary.name), 0)


def learn_versions(store: Store, num_versions: int) -> None:
    """What a learn stage does; its dictionary has numbers of its own."""
    dictionary, model, rng = Dictionary(store), TableModel(), np.random.default_rng(3)
    for version in range(1, num_versions + 1):
        for number in range(2 * version):
            dictionary.number(f"i{19 - number}")
        model.change(rng, min(2 * version, 20))
        with store.write() as txn:
            dictionary.flush(txn)
            delta = Delta("learn", version, {"events-0": version}, models={"m": save_model(txn, store, "m", model)})
            put_version(txn, store, "learn", version)
            put_offsets(txn, store, delta.offsets)
            DeltaLog(store).append(txn, version, encode(delta, dictionary.name), 0)


@pytest.fixture
def stages(tmp_path: Path) -> tuple[Path, Path]:
    with (
        Store(tmp_path / "fold", "fold", writer=True) as fold,
        Store(tmp_path / "learn", "learn", writer=True) as learn,
    ):
        fold_versions(fold, 10)
        learn_versions(learn, 10)
    return tmp_path / "fold", tmp_path / "learn"


def followed(path: Path, stages: tuple[Path, Path], restarts: bool = False) -> None:
    """Fold all deltas of both stages into a store, in small steps."""
    with Store(stages[0]) as fold, Store(stages[1]) as learn:
        sources = {"fold": StoreSource(fold), "learn": StoreSource(learn)}
        store = Store(path, "follow", writer=True)
        follower = Follower(store, SIGNALS)
        while follower.step("learn", sources["learn"], 5, limit=2) + follower.step("fold", sources["fold"], 5, limit=1):
            if restarts:
                store.close()
                store = Store(path, "follow", writer=True)
                follower = Follower(store, SIGNALS)
        store.close()


@pytest.mark.parametrize("restarts", [False, True])
def test_an_empty_store_that_follows_has_the_same_serving_tables(
    tmp_path: Path, stages: tuple[Path, Path], restarts: bool
) -> None:
    followed(tmp_path / "node", stages, restarts)
    with Store(tmp_path / "node") as node, Store(stages[1]) as learn, node.read() as node_txn, learn.read() as txn:
        here = dump_serving(node_txn, node)
        assert here == dump_serving(txn, learn)
        assert {table.split(":")[0] for table, _, _ in here} == {"rows", "cells", "user_rows", "dense"}
        assert get_offsets(node_txn, node, "learn") == {"events-0": 10}
        assert get_version(node_txn, node, "learn") == 10


def test_records_and_catalogue_are_the_stages(tmp_path: Path, stages: tuple[Path, Path]) -> None:
    followed(tmp_path / "node", stages)
    with Store(tmp_path / "node") as node, Store(stages[0]) as fold:
        with node.read() as node_txn, fold.read() as fold_txn:
            here, there = Dictionary(node), Dictionary(fold)
            for user in (b"u0", b"u1", b"u2", b"u3"):
                one, other = read_record(node_txn, node, user), read_record(fold_txn, fold, user)
                assert len(one.sequence.rows) == len(other.sequence.rows) > 0
                assert list(map(here.name, one.seen_items())) == list(map(there.name, other.seen_items()))
                assert {here.name(item) for item in one.disliked()} == {there.name(item) for item in other.disliked()}
            assert get_offsets(node_txn, node, "fold") == {"events-0": 100}
        with node.read() as txn:
            assert read_record(txn, node, b"gone").forgotten_at == 700
        item = Catalogue(node, here).get("i1")
        assert item is not None
        assert item.title == "one"


def test_a_delta_that_comes_twice_is_passed_over(tmp_path: Path, stages: tuple[Path, Path]) -> None:
    followed(tmp_path / "node", stages)
    with Store(stages[1]) as learn, learn.read() as txn:
        deltas = list(DeltaLog(learn).read(txn, 0))
    with Store(tmp_path / "node", "follow", writer=True) as node:
        before = dump(node)
        follower = Follower(node, SIGNALS)
        assert not any(follower.fold("learn", version, data, 5) for version, data in deltas)
        assert dump(node) == before


def test_it_does_not_matter_how_many_deltas_a_commit_takes_even_where_a_user_is_deleted_between_them(
    tmp_path: Path,
) -> None:
    with Store(tmp_path / "fold", "fold", writer=True) as fold:
        fold_versions(fold, 6)
        rows = {at: pack(Entry(at, at, 0, 1)) for at in (10_000, 20_000)}
        later = [
            Delta("fold", 7, users=[b"u1"], entries=np.frombuffer(rows[10_000], ENTRY)),
            Delta("fold", 8, users=[b"u1"], entries=np.frombuffer(rows[20_000], ENTRY), deleted_users=[(b"u1", 800)]),
        ]
        with fold.write() as txn:
            for delta in later:
                DeltaLog(fold).append(txn, delta.version, encode(delta, Dictionary(fold).name), 0)
        for limit in (1, 3, 100):
            with Store(tmp_path / f"by-{limit}", "follow", writer=True) as node:
                follower = Follower(node, SIGNALS)
                while follower.step("fold", StoreSource(fold), 5, limit):
                    pass
                assert follower.version("fold") == 8
                with node.read() as txn:
                    assert read_record(txn, node, b"u1").sequence.rows == [rows[20_000]]
    by_one, by_three, whole = (dump(Store(tmp_path / f"by-{limit}")) for limit in (1, 3, 100))
    assert by_one == by_three == whole


def test_servers_of_the_node_can_follow_the_follower(tmp_path: Path, stages: tuple[Path, Path]) -> None:
    followed(tmp_path / "node", stages)
    with Store(tmp_path / "node") as node, node.read() as txn:
        dictionary = Dictionary(node)
        for stage in ("fold", "learn"):
            found = [decode(data, dictionary.find) for _, data in DeltaLog(node, stage).read(txn, 0)]
            assert [delta.version for delta in found] == list(range(1, 11))


def test_a_view_takes_a_followers_store_for_both_stages(tmp_path: Path, stages: tuple[Path, Path]) -> None:
    followed(tmp_path / "node", stages)
    of_node = View(tmp_path / "node", tmp_path / "node", lambda _: {"m": TableModel()})
    of_stages = View(*stages, lambda _: {"m": TableModel()})
    assert of_node.refresh()
    assert of_stages.refresh()
    with of_node.read() as here, of_stages.read() as there:
        assert (here.version, here.fold_version) == (there.version, there.fold_version) == (10, 10)
        assert here.learned_offsets == there.learned_offsets == {"events-0": 10}
        assert here.dictionary is not None
        assert there.dictionary is not None
        for name in (f"i{number}" for number in range(20)):
            row, other = here.dictionary.find(name), there.dictionary.find(name)
            for table in ("embeddings", "counters"):
                one, two = here.models["m"].tables[table], there.models["m"].tables[table]
                assert isinstance(one, RowTable)
                assert isinstance(two, RowTable)
                assert one.values[row].tolist() == two.values[other].tolist()
            assert here.catalogue.first_seen[row] == there.catalogue.first_seen[other]
        users = [home.user_row("m", "users", b"u1") for home in (here, there)]
        assert users[0] is not None
        assert users[1] is not None
        assert users[0].tolist() == users[1].tolist()
    of_node.close()
    of_stages.close()
