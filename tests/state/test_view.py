# The view: what it shows after each version, from deltas or from whole tables.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from state.catalogue import Catalogue, CatalogueItem
from state.deltas import Delta, DeltaLog, encode
from state.dictionary import Dictionary
from state.entry import ENTRY, Entry, pack
from state.home import Home
from state.meta import put_event_time, put_version
from state.offsets import put_offsets
from state.store import Store
from state.tables import save_model
from state.view import View
from tests.state.doubles import TableModel


class Stages:
    """A fold and a learn store in this process, committed by hand."""

    def __init__(self, path: Path) -> None:
        self.fold, self.learn = Store(path / "fold", "fold", writer=True), Store(path / "learn", "learn", writer=True)
        self.items, self.learned_items = Dictionary(self.fold), Dictionary(self.learn)
        self.catalogue = Catalogue(self.fold, self.items)
        self.model = TableModel()
        self.rng = np.random.default_rng(5)
        self.versions = {"fold": 0, "learn": 0}

    def commit_fold(self, *items: str, at: int = 100, upserts: tuple[CatalogueItem, ...] = ()) -> None:
        """One version of the fold stage: an entry of each item at an event time."""
        self.versions["fold"] += 1
        rows = [pack(Entry(at, 1, self.items.number(item), 1)) for item in items]
        delta = Delta("fold", self.versions["fold"], users=[b"u"] * len(rows), items=list(upserts))
        delta.entries = np.frombuffer(b"".join(rows), ENTRY)
        for item in upserts:
            self.catalogue.upsert(item)
        self.catalogue.saw(delta.entries["item"], delta.entries["timestamp"])
        with self.fold.write() as txn:
            self.items.flush(txn)
            self.catalogue.flush(txn)
            put_version(txn, self.fold, "fold", delta.version)
            DeltaLog(self.fold).append(txn, delta.version, encode(delta, self.items.name), 0)

    def commit_learn(self, *items: str) -> None:
        """One version of the learn stage, which numbers items as it meets them."""
        self.versions["learn"] += 1
        version = self.versions["learn"]
        for item in items:
            self.learned_items.number(item)
        self.model.change(self.rng, len(self.learned_items))
        with self.learn.write() as txn:
            self.learned_items.flush(txn)
            changes = save_model(txn, self.learn, "m", self.model)
            delta = Delta("learn", version, {"events-0": version}, 10 * version, models={"m": changes})
            put_version(txn, self.learn, "learn", version)
            put_event_time(txn, self.learn, "learn", delta.event_time)
            put_offsets(txn, self.learn, delta.offsets)
            DeltaLog(self.learn).append(txn, version, encode(delta, self.learned_items.name), 0)

    def view(self) -> View[TableModel]:
        """A view that shares the stores."""
        return View(self.fold, self.learn, lambda _: {"m": TableModel()})

    def served(self, home: Home[TableModel]) -> None:
        """Check that a home shows the model's numbers under the fold store's item numbers."""
        for number in range(len(self.learned_items)):
            there = self.items.find(self.learned_items.name(number))
            assert (home.models["m"].counters.values[there] == self.model.counters.values[number]).all()
        assert (home.models["m"].weights == self.model.weights.astype(np.float16)).all()


@pytest.fixture
def stages(tmp_path: Path) -> Iterator[Stages]:
    stages = Stages(tmp_path)
    yield stages
    stages.fold.close()
    stages.learn.close()


def test_before_there_is_anything_the_view_is_empty_and_says_version_0(tmp_path: Path) -> None:
    view = View(tmp_path / "fold", tmp_path / "learn", lambda _: {"m": TableModel()})
    assert not view.refresh()
    assert view.fold_store is None
    with view.read() as home:
        assert (home.version, home.fold_version, home.num_items) == (0, 0, 0)
        assert home.user_row("m", "users", b"u1") is None
    view.close()


def test_items_and_catalogue_are_there_before_anything_is_learned(tmp_path: Path) -> None:
    with Store(tmp_path / "fold", "fold", writer=True) as store, store.write() as txn:
        dictionary = Dictionary(store)
        dictionary.number("a")
        dictionary.flush(txn)
        put_version(txn, store, "fold", 1)
    view = View(tmp_path / "fold", tmp_path / "learn", lambda _: {"m": TableModel()})
    assert view.refresh()
    assert not view.refresh()
    assert view.fold_store is not None
    with view.read() as home:
        assert (home.version, home.fold_version, home.num_items) == (0, 1, 1)
    view.close()


def test_both_homes_show_every_version_in_the_fold_stores_numbers(stages: Stages) -> None:
    view = stages.view()
    for number in range(8):
        stages.commit_fold(f"x{number}", f"i{number}")
        assert view.refresh()
        stages.commit_learn(f"i{number}")
        assert view.refresh()
        assert not view.refresh()
        with view.read() as home:
            assert (home.version, home.fold_version) == (number + 1, number + 1)
            assert (home.event_time, home.learned_offsets) == (10 * number + 10, {"events-0": number + 1})
            assert home.num_items == 2 * number + 2
            stages.served(home)
    view.close()


def test_a_view_that_missed_what_was_trimmed_loads_the_tables_whole(stages: Stages) -> None:
    view = stages.view()
    stages.commit_fold("a", "b")
    stages.commit_learn("b", "a")
    view.refresh()
    for _ in range(3):
        stages.commit_learn()
        stages.commit_fold(upserts=(CatalogueItem("a", stages.versions["fold"], available=False),))
    for store in (stages.fold, stages.learn):
        with store.write() as txn:
            DeltaLog(store).trim(txn, keep_after_ms=99, keep_after_version=99)
    for _ in range(2):
        assert view.refresh()
        with view.read() as home:
            stages.served(home)
            assert not home.catalogue.available[0]
        stages.commit_learn()
    view.close()


def test_upserts_deletes_and_first_sightings_arrive_by_deltas(stages: Stages) -> None:
    view = stages.view()
    stages.commit_fold("a", at=500)
    view.refresh()
    stages.commit_fold("a", "b", at=400)
    view.refresh()
    stages.commit_fold(upserts=(CatalogueItem("b", 5, categories=["x"]), CatalogueItem("a", 5, deleted=True)))
    view.refresh()
    with view.read() as home:
        columns = home.catalogue
        assert columns.first_seen[:2].tolist() == [400, 400]
        assert columns.available[:2].tolist() == [False, True]
        assert columns.categories[1] == {columns.category_codes["x"]}
    view.close()


def test_a_home_being_read_is_not_written_and_readers_never_wait(stages: Stages) -> None:
    view = View(stages.fold, stages.learn, lambda _: {"m": TableModel()}, drain_seconds=0.01)
    stages.commit_fold("a")
    stages.commit_learn("a")
    view.refresh()
    with view.read() as old:
        weights = old.models["m"].weights.copy()
        stages.commit_learn()
        assert view.refresh()  # the other home was free
        stages.commit_learn()
        assert not view.refresh()  # now the old one would have to be written
        with view.read() as new:
            assert new.version == 2
        assert old.version == 1
        assert (old.models["m"].weights == weights).all()
    assert view.refresh()
    with view.read() as home:
        assert home.version == 3
    view.close()


def test_a_catch_up_that_broke_half_way_is_finished_the_next_time(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = stages.view()
    stages.commit_fold("a", "b")
    stages.commit_learn("b", "a")
    view.refresh()
    for _ in range(2):
        stages.commit_learn()
        with monkeypatch.context() as patch:
            patch.setattr(TableModel, "load_dense", None)  # rows and cells are taken, then it breaks
            with pytest.raises(TypeError):
                view.refresh()
        with view.read() as home:
            assert home.version == stages.versions["learn"] - 1
        assert view.refresh()
        with view.read() as home:
            stages.served(home)
    view.close()


def test_a_commit_seen_before_it_can_be_read_is_taken_in_once_it_can(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB writes the page that tells of a commit a moment before readers find it."""
    stages.commit_fold("a")
    stages.commit_learn("a")
    view = stages.view()
    assert view.refresh()
    with monkeypatch.context() as early:
        ahead = {store: store.last_commit + (store is stages.fold) for store in (stages.fold, stages.learn)}
        early.setattr(Store, "last_commit", property(lambda store: ahead[store]))
        assert not view.refresh()
    stages.commit_fold("b")
    assert view.refresh()
    assert not view.refresh()
