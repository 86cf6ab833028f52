# Snapshots in the background of a stage: when one is due, and that a failure stops nothing.
from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from state.snapshots import list_snapshots
from state.store import Store
from stream.snapshots import SnapshotConfig, Snapshots

OFTEN = SnapshotConfig(every_minutes=1e-12)


def test_one_is_written_when_the_newest_is_old_enough(tmp_path: Path) -> None:
    with Store(tmp_path / "fold", "fold", writer=True) as store:
        for config, num_written in ((SnapshotConfig(every_minutes=0), 0), (SnapshotConfig(), 0), (OFTEN, 1)):
            snapshots = Snapshots(store, tmp_path, config)
            snapshots.upkeep()
            snapshots.close()
            assert len(list_snapshots(tmp_path / "snapshots", "fold")) == num_written


def test_a_stage_that_starts_anew_does_not_begin_the_hour_anew(tmp_path: Path) -> None:
    with Store(tmp_path / "fold", "fold", writer=True) as store:
        old = tmp_path / "elsewhere" / "fold-000000000007"
        old.mkdir(parents=True)
        os.utime(old, (0, 0))
        snapshots = Snapshots(store, tmp_path, SnapshotConfig(tmp_path / "elsewhere", every_minutes=60))
        snapshots.upkeep()
        snapshots.close()
        assert [each.version for each in list_snapshots(tmp_path / "elsewhere", "fold")] == [0, 7]


def test_one_that_cannot_be_written_is_logged_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "snapshots").write_text("in the way")
    with Store(tmp_path / "fold", "fold", writer=True) as store, caplog.at_level(logging.ERROR):
        snapshots = Snapshots(store, tmp_path, OFTEN)
        snapshots.upkeep()
        snapshots.close()
        assert "no snapshot was written" in caplog.text
        assert str(tmp_path / "snapshots") in caplog.text
        with store.write() as txn:
            store.put_meta(txn, "still", "writable")
