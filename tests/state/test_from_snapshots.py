# A node begun from snapshots is like one that followed all along, and whoever reads it finds it so.
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from models.base import Model
from models.registry import build_models
from models.tables import CellTable, RowTable
from state.dump import dump_serving
from state.follower import LEARN, Follower, StoreSource
from state.from_snapshots import begin_from
from state.home import Configs, Home
from state.meta import get_event_time
from state.offsets import get_offsets
from state.signals import SignalTable
from state.store import Store
from state.view import View
from stream.fold import FoldStage
from stream.learn import LearnStage
from stream.source import IterableSource
from tests.commands.whole_system import answers
from tests.stream.helpers import NOW, named_dump, random_events, stamped, value

MODELS = ["blend"]


class Stages:
    """Two folds, each with half of the users, and the learner of both."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        names = ("fold-0", "fold-1")
        self.folds = {name: stack.enter_context(Store(folder / name, "fold", writer=True)) for name in names}
        self.learn = stack.enter_context(Store(folder / LEARN, "learn", writer=True))

    @property
    def all(self) -> Mapping[str, Store]:
        """By the names they are followed by."""
        return self.folds | {LEARN: self.learn}

    def grow(self, num_events: int) -> None:
        """Fold and learn all events up to this many."""
        events = random_events(num_events, num_users=10)
        for number, (name, fold) in enumerate(self.folds.items()):
            mine = [value(each) for each in events if hash_of(each) % 2 == number or each["type"] == "item"]
            stage = FoldStage(fold, IterableSource(stamped(mine), name))
            while stage.step().num_messages:
                pass
        sources = {name: StoreSource(fold) for name, fold in self.folds.items()}
        learner = LearnStage(self.learn, sources, build_models(MODELS), np.random.default_rng(0))
        while learner.step(NOW).num_deltas:
            pass


def hash_of(event: Mapping[str, object]) -> int:
    return sum(str(event.get("user_id", "")).encode())


def follow(store: Store, stages: Stages) -> Follower:
    follower = Follower(store, SignalTable(), folds=list(stages.folds))
    while sum(follower.step(name, StoreSource(each), NOW) for name, each in stages.all.items()):
        pass
    return follower


def contents(store: Store) -> tuple[object, ...]:
    """All that a node's store says."""
    said = named_dump(store)
    with store.read() as txn:
        offsets = {stage: get_offsets(txn, store, stage) for stage in ("fold", "learn")}
        times = {stage: get_event_time(txn, store, stage) for stage in ("fold", "learn")}
        served = [(table, item, data) for table, item, data in dump_serving(txn, store)]
    return said, offsets, times, served


@pytest.fixture
def stages(tmp_path: Path) -> Iterator[Stages]:
    with ExitStack() as stack:
        yield Stages(tmp_path, stack)


def tables(home: Home[Model]) -> dict[str, object]:
    """What the models of a home hold."""
    found: dict[str, object] = {}
    for name, model in home.models.items():
        for key, table in model.tables.items():
            if isinstance(table, RowTable):
                found[f"{name}/{key}"] = table.values[table.present].tolist()
            elif isinstance(table, CellTable):
                found[f"{name}/{key}"] = table.rows
    return found


def snapshots(stages: Stages, folder: Path, stack: ExitStack) -> dict[str, Store]:
    for name, store in stages.all.items():
        store.copy(folder / name)
    return {name: stack.enter_context(Store(folder / name)) for name in stages.all}


@pytest.mark.parametrize("num_before", [0, 150])
def test_a_node_from_snapshots_is_like_one_that_followed_all_along(
    stages: Stages, tmp_path: Path, num_before: int
) -> None:
    with (
        ExitStack() as stack,
        Store(tmp_path / "all-along", "follow", writer=True) as followed,
        Store(tmp_path / "begun", "follow", writer=True) as begun,
    ):
        if num_before:
            stages.grow(num_before)
            follow(begun, stages)
        stages.grow(400)
        kept = snapshots(stages, tmp_path / "snapshots", stack)
        begin_from(begun, {name: kept[name] for name in stages.folds}, kept[LEARN], NOW)
        follow(followed, stages)
        assert contents(begun) == contents(followed)
        stages.grow(600)
        follow(followed, stages)
        follow(begun, stages)
        assert contents(begun) == contents(followed)


def test_two_nodes_give_the_same_lists_wherever_they_began(stages: Stages, tmp_path: Path) -> None:
    with (
        ExitStack() as stack,
        Store(tmp_path / "one" / "follow", "follow", writer=True) as one,
        Store(tmp_path / "other" / "follow", "follow", writer=True) as other,
    ):
        stages.grow(300)
        kept = snapshots(stages, tmp_path / "snapshots", stack)
        begin_from(other, {name: kept[name] for name in stages.folds}, kept[LEARN], NOW)
        stages.grow(700)
        follow(one, stages)
        follow(other, stages)
    users = [f"u{number}" for number in range(10)] + ["nobody"]
    found = answers(tmp_path / "one", users, "follow", "follow")
    assert found == answers(tmp_path / "other", users, "follow", "follow")
    assert all(len(reply["items"]) == 10 for reply in found.values())  # type: ignore[arg-type]


def test_a_server_that_reads_the_store_takes_in_what_it_begins_with(stages: Stages, tmp_path: Path) -> None:
    def build(configs: Configs) -> dict[str, Model]:
        return build_models(list(configs), 0, dict(configs)) if configs else {}

    with ExitStack() as stack, Store(tmp_path / "node", "follow", writer=True) as node:
        stages.grow(100)
        follow(node, stages)
        view = View(node, node, build)
        view.refresh()
        stages.grow(500)
        kept = snapshots(stages, tmp_path / "snapshots", stack)
        begin_from(node, {name: kept[name] for name in stages.folds}, kept[LEARN], NOW)
        stages.grow(520)
        follow(node, stages)
        anew = View(node, node, build)
        for each in (view, anew):
            each.refresh()
            each.refresh()
        with view.read() as here, anew.read() as there:
            assert (here.version, here.fold_version) == (there.version, there.fold_version)
            assert here.catalogue.first_seen.tolist() == there.catalogue.first_seen.tolist()
            assert tables(here) == tables(there) != {}
        view.close()
        anew.close()
