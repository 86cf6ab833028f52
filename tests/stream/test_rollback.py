# Rollback: trained models go back, counters and positions stay, and whoever follows is where the stage is.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models.registry import MODELS, build_models
from models.tables import RowTable
from state.dump import dump, dump_serving
from state.follower import Follower, StoreSource
from state.meta import get_held, get_version, put_held
from state.offsets import get_offsets
from state.signals import SignalTable
from state.snapshots import Snapshot, write_snapshot
from state.store import Store, StoreError
from state.view import View
from stream.learn import LearnStage
from stream.rollback import kept_version, rollback
from tests.stream.helpers import NOW, fold, value, view

TRAINED = ("blend", "transformer")
TRAINED_ROWS = [
    f"rows:{name}/{table_name}"
    for name in TRAINED
    for table_name, table in build_models(MODELS)[name].tables.items()
    if isinstance(table, RowTable) and table.wire == "f2"
]


class Home:
    """Both stages over stores in this process."""

    def __init__(self, path: Path) -> None:
        self.path, self.values = path, list[bytes]()
        self.folded, self.learned = Store(path / "fold", "fold", True), Store(path / "learn", "learn", True)

    def learn(self, num_events: int) -> None:
        """Fold and learn so many more events, the learner opened anew."""
        start = 100 * len(self.values)
        events = [view(f"u{at % 9}", f"i{at * 7 % (12 + at // 100)}", at) for at in range(start, start + num_events)]
        self.values.append(value(*events))
        fold(self.folded, self.values)
        self.stage = LearnStage(
            self.learned, {"fold-0": StoreSource(self.folded)}, build_models(MODELS), np.random.default_rng(0)
        )
        while self.stage.step(NOW).num_deltas:
            pass

    def snapshot(self) -> Snapshot:
        return write_snapshot(self.learned, self.path / "snapshots", keep=3)

    def roll_back(self, snapshot: Snapshot) -> int:
        return rollback(self.learned, snapshot, build_models(MODELS), NOW)[0]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.folded.close()
    home.learned.close()


def served(store: Store, *models: str) -> list[tuple[str, str, bytes]]:
    with store.read() as txn:
        return [line for line in dump_serving(txn, store) if line[0].split(":")[1].split("/")[0] in models]


def trained(store: Store) -> list[tuple[str, str, bytes]]:
    """What gradients trained: weights, and rows of fp16."""
    return [line for line in served(store, *TRAINED) if line[0].startswith("dense") or line[0] in TRAINED_ROWS]


def version(store: Store) -> int:
    with store.read() as txn:
        return get_version(txn, store, "learn")


def test_trained_models_go_back_and_counters_records_and_positions_stay(home: Home) -> None:
    home.learn(100)
    kept = home.snapshot()
    home.learn(100)
    before, exact = version(home.learned), dump(home.learned)
    with home.learned.read() as txn:
        offsets = get_offsets(txn, home.learned)
    assert home.roll_back(kept) == before + 1
    with Store(kept.path) as snapshot:
        assert trained(home.learned) == trained(snapshot) != []
    assert dump(home.learned) == exact
    with home.learned.read() as txn:
        assert get_offsets(txn, home.learned) == offsets


def test_learning_goes_on_from_the_kept_weights_with_their_optimiser_state(home: Home) -> None:
    home.learn(100)
    kept = home.snapshot()
    home.learn(100)
    home.roll_back(kept)
    with Store(kept.path) as snapshot, snapshot.read() as txn, home.learned.read() as present:
        for part in ("training:transformer", "training:blend"):
            pairs = [list(each.cursor(store.db(part))) for each, store in ((txn, snapshot), (present, home.learned))]
            assert pairs[0] == pairs[1]
    home.learn(100)
    with Store(kept.path) as snapshot:
        assert trained(home.learned) != trained(snapshot)


def test_followers_and_views_are_where_the_stage_is_after_a_rollback(home: Home) -> None:
    follow = Store(home.path / "follow", "follow", writer=True)
    follower = Follower(follow, SignalTable())
    view = View(home.folded, home.learned, lambda _: build_models(MODELS))
    home.learn(100)
    kept = home.snapshot()
    for _ in range(2):
        home.learn(100)
        for stage, store in (("fold", home.folded), ("learn", home.learned)):
            follower.step("fold" if stage == "fold" else "learn", StoreSource(store), NOW)
        view.refresh()
    home.roll_back(kept)
    follower.step("learn", StoreSource(home.learned), NOW)
    view.refresh()
    assert served(follow, *MODELS) == served(home.learned, *MODELS)
    whole = View(home.folded, home.learned, lambda _: build_models(MODELS))
    whole.refresh()
    with view.read() as followed, whole.read() as loaded:
        assert followed.version == loaded.version == version(home.learned)
        for name in TRAINED:
            for weight, weights in loaded.models[name].dense().items():
                assert (followed.models[name].dense()[weight] == weights).all()
    view.close()
    whole.close()
    follow.close()


def test_a_rollback_ends_the_hold_of_what_it_put_back_alone(home: Home) -> None:
    home.learn(100)
    kept = home.snapshot()
    with home.learned.write() as txn:
        put_held(txn, home.learned, {"transformer": "poisoned", "popularity": "too"})
    home.roll_back(kept)
    with home.learned.read() as txn:
        assert get_held(txn, home.learned) == {"popularity": "too"}


def test_a_version_that_is_not_kept_is_refused_with_those_that_are(home: Home) -> None:
    with pytest.raises(ValueError, match=r"version 7 is not kept in .*; kept are none yet"):
        kept_version(home.path / "snapshots", 7)
    for _ in range(2):
        home.learn(100)
        home.snapshot()
    first, second = (version(home.learned) - 1, version(home.learned))
    with pytest.raises(ValueError, match=f"kept are {first}, {second}"):
        kept_version(home.path / "snapshots", 7)
    assert kept_version(home.path / "snapshots", first).version == first


def test_a_snapshot_of_another_store_changes_nothing(home: Home, tmp_path: Path) -> None:
    home.learn(100)
    other = Home(tmp_path / "other")
    other.values.append(value(view("u", "something else")))
    other.learn(100)
    foreign = other.snapshot()
    other.folded.close()
    other.learned.close()
    before = served(home.learned, *MODELS)
    with pytest.raises(StoreError, match="is no snapshot of"):
        home.roll_back(foreign)
    assert (served(home.learned, *MODELS), version(home.learned)) == (before, 1)


def test_weights_of_another_configuration_are_not_taken(home: Home) -> None:
    home.learn(100)
    kept = home.snapshot()
    with home.learned.write() as txn:
        home.learned.put_meta(txn, "config:transformer", '{"width": 8}')
    with pytest.raises(StoreError, match=r"'transformer' had the configuration .*, now it has"):
        home.roll_back(kept)
