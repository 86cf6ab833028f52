# A home made from snapshots serves the same versions and goes on, with the event log that is left or with a new one.
from __future__ import annotations

import shutil
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from models.popularity import Popularity
from state.dump import dump
from state.follower import StoreSource
from state.offsets import get_offsets
from state.snapshots import list_snapshots, write_snapshot
from state.store import Stage, Store, StoreError
from state.view import View
from stream.fold import FoldStage
from stream.learn import LearnStage
from stream.log import PARTITION, EventLog, LogSource
from stream.restore import require_whole, restore
from stream.run import FOLD_NAME
from tests.stream.helpers import NOW, value, view


def run(home: Path, num_events: int, at: int) -> dict[str, bytes]:
    """Append so many events, fold and learn all there is; the dumps of both stores."""
    log = EventLog(home / "log")
    if num_events:
        log.append([value(view("u", f"i{at + number}", at + number)) for number in range(num_events)], NOW + at)
    with Store(home / "fold", "fold", True) as folded, Store(home / "learn", "learn", True) as learned:
        fold = FoldStage(folded, LogSource(log))
        while fold.step().num_messages:
            pass
        rng, folds = np.random.default_rng(0), {FOLD_NAME: StoreSource(folded)}
        learn = LearnStage(learned, folds, {"popularity": Popularity()}, rng)
        while learn.step(NOW).num_deltas:
            pass
        log.close()
        return {
            f"{stage} {part}": data for stage, s in (("f", folded), ("l", learned)) for part, data in dump(s).items()
        }


def snapshots(home: Path, *stages: Stage) -> Path:
    for stage in stages:
        with Store(home / stage) as store:
            write_snapshot(store, home / "snapshots", keep=5)
    return home / "snapshots"


def test_an_empty_home_takes_over_snapshots_and_goes_on_at_their_offset(tmp_path: Path) -> None:
    before = run(tmp_path / "old", 30, at=0)
    kept = snapshots(tmp_path / "old", "learn", "fold")
    versions = restore(kept, tmp_path / "new")
    assert versions == {stage: list_snapshots(kept, stage)[-1].version for stage in ("fold", "learn")}
    view = View(tmp_path / "new" / "fold", tmp_path / "new" / "learn", lambda _: {"popularity": Popularity()})
    view.refresh()
    with view.read() as served:
        assert (served.fold_version, served.version) == (versions["fold"], versions["learn"])
        assert served.models["popularity"].num_items == 30
    view.close()
    assert run(tmp_path / "new", 0, at=30) == before
    assert run(tmp_path / "new", 10, at=30) == run(tmp_path / "old", 10, at=30)


def test_a_home_that_lost_its_stores_learns_from_its_log_what_came_after_the_snapshots(tmp_path: Path) -> None:
    run(tmp_path, 30, at=0)
    kept = snapshots(tmp_path, "learn", "fold")
    before = run(tmp_path, 25, at=30)
    shutil.rmtree(tmp_path / "fold")
    shutil.rmtree(tmp_path / "learn")
    restore(kept, tmp_path)
    with Store(tmp_path / "fold") as store, store.read() as txn:
        assert get_offsets(txn, store) == {PARTITION: 30}
    assert run(tmp_path, 0, at=0) == before


def test_the_newest_snapshots_that_fit_together_are_taken(tmp_path: Path) -> None:
    run(tmp_path / "old", 30, at=0)
    snapshots(tmp_path / "old", "learn", "fold")
    run(tmp_path / "old", 30, at=30)
    kept = snapshots(tmp_path / "old", "learn")  # ahead of every fold snapshot
    versions = restore(kept, tmp_path / "new")
    assert versions["learn"] == list_snapshots(kept, "learn")[0].version


def test_a_home_with_stores_is_left_alone(tmp_path: Path) -> None:
    run(tmp_path, 5, at=0)
    kept = snapshots(tmp_path, "learn", "fold")
    with pytest.raises(StoreError, match="restore into a home without stores"):
        restore(kept, tmp_path)


def test_a_log_that_does_not_reach_back_is_refused_with_its_offsets(tmp_path: Path) -> None:
    run(tmp_path / "old", 30, at=0)
    kept = snapshots(tmp_path / "old", "learn", "fold")
    log = EventLog(tmp_path / "new" / "log")
    log.append([b"x"] * 5, NOW)
    log.close()
    with pytest.raises(StoreError, match="holds offsets 0 to 5; the snapshots go on at 30"):
        restore(kept, tmp_path / "new")
    assert not (tmp_path / "new" / "fold").exists()


@pytest.mark.parametrize("sync", range(12))
def test_a_restore_that_ends_anywhere_is_done_again_and_is_whole(
    tmp_path: Path, sync: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run(tmp_path / "old", 30, at=0)
    kept, home, num_syncs = snapshots(tmp_path / "old", "learn", "fold"), tmp_path / "new", count()

    def end_at(_: Path) -> None:
        if next(num_syncs) == sync:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr("state.generation.sync", end_at)
        restore(kept, home)
    num_stores = sum((home / stage).is_dir() for stage in ("fold", "learn"))
    if num_stores > 0 and (home / "restoring").exists():
        with pytest.raises(StoreError, match=f"{home} was restored in part"):
            require_whole(home)
    if num_stores < 2 or (home / "restoring").exists():
        restore(kept, home)
    require_whole(home)
    assert run(home, 0, at=30) == before


def test_a_directory_without_snapshots_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{tmp_path} holds no fold and learn snapshots"):
        restore(tmp_path, tmp_path / "new")
