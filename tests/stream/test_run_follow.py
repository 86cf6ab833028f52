# The follower's process: it begins from snapshots where Kafka no longer holds what comes next, and waits for some.
from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from state.dump import dump_serving
from state.meta import get_version
from state.snapshots import write_snapshot
from state.store import Store, StoreMissing
from tests.brokers import Cluster
from tests.stream.shipped_stages import Stages
from tests.stream.waiting import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stages(broker: Cluster, tmp_path: Path) -> Iterator[Stages]:
    with ExitStack() as stack:
        yield Stages(broker, tmp_path, stack)


@contextmanager
def following(stages: Stages, home: Path, kept: Path) -> Iterator[Path]:
    """`runnel follow` as a process; the file of its log."""
    config, log = stages.config, home.with_name("follow.log")
    settings = {f"RUNNEL_KAFKA__TOPICS__{name.upper()}": topic for name, topic in vars(config.topics).items()}
    settings |= {f"RUNNEL_{stage}__SNAPSHOTS__DIRECTORY": str(kept) for stage in ("FOLD", "LEARN")}
    command = [sys.executable, str(ROOT / "runnel.py"), "follow", "--home", str(home), "--kafka", config.servers]
    with log.open("ab") as output, subprocess.Popen(command, env=os.environ | settings, stderr=output) as process:
        try:
            yield log
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


def is_level(stages: Stages, home: Path) -> bool:
    try:
        with Store(home / "follow") as node, node.read() as txn, stages.learn.read() as learned:
            return get_version(txn, node, "learn") == get_version(learned, stages.learn, "learn")
    except StoreMissing:
        return False


def keep(stages: Stages, directory: Path) -> None:
    for store in (stages.learn, stages.fold):
        write_snapshot(store, directory, 2)


def require_same(stages: Stages, home: Path) -> None:
    with Store(home / "follow") as node, node.read() as txn, stages.learn.read() as learned:
        assert dump_serving(txn, node) == dump_serving(learned, stages.learn)


def test_behind_retention_it_begins_from_snapshots_and_follows_on(stages: Stages, tmp_path: Path) -> None:
    home, kept = tmp_path / "node", tmp_path / "snapshots"
    stages.grow(20)
    stages.ship()
    with following(stages, home, kept):
        wait_until(lambda: is_level(stages, home), 30)
    stages.grow(20)
    stages.ship()
    stages.delete_before(35)
    keep(stages, kept)
    stages.grow(5)
    stages.ship()
    with following(stages, home, kept):
        wait_until(lambda: is_level(stages, home), 30)
    require_same(stages, home)


def test_without_snapshots_it_says_so_and_begins_once_there_are_some(stages: Stages, tmp_path: Path) -> None:
    home, kept = tmp_path / "node", tmp_path / "snapshots"
    stages.grow(20)
    stages.ship()
    stages.delete_before(10)
    with following(stages, home, kept) as log:
        wait_until(lambda: f"{kept} holds no snapshots that go on from there" in log.read_text(), 30)
        keep(stages, kept)
        wait_until(lambda: is_level(stages, home), 30)
    require_same(stages, home)
    assert "the oldest delta of fold-0 that Kafka holds is 11, and 1 is needed" in log.read_text()


def test_where_folds_or_topics_are_others_than_before_it_begins_from_snapshots_once(
    stages: Stages, tmp_path: Path
) -> None:
    home, kept = tmp_path / "node", tmp_path / "snapshots"
    stages.grow(10)
    stages.ship()
    keep(stages, kept)
    with following(stages, home, kept):
        wait_until(lambda: is_level(stages, home), 30)
    with Store(home / "follow", "follow", writer=True) as node, node.write() as txn:
        node.put_meta(txn, "followed", ["fold-0/2", "fold-1/2", "learn", "another topic"])
        node.put_meta(txn, "positions", {"fold-0": 3, "fold-1": 7, "learn": 1})
    stages.grow(5)
    stages.ship()
    with following(stages, home, kept) as log:
        wait_until(lambda: is_level(stages, home), 30)
    require_same(stages, home)
    assert log.read_text().count("follow begins from snapshots: the topics, or the folds, are others") == 1
