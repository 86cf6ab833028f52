# Snapshots in the background of a stage: its store is copied by a thread, and commits go on meanwhile.
from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from time import monotonic, time

from state.snapshots import list_snapshots, write_snapshot
from state.store import Store, StoreError
from stream.shipped import fold_name

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SnapshotConfig:
    """Where and how often whole copies of a stage's store are written, to roll back to, and to start anew from."""

    directory: Path | None = None  # none: HOME/snapshots
    every_minutes: float = 60.0  # 0: only when `runnel snapshot` says so
    keep: int = 3  # newest of the stage; older ones are dropped

    def where(self, home: Path) -> Path:
        """The directory, for a home."""
        return self.directory or home / "snapshots"

    def of_fold(self, home: Path, number: int, num_folds: int) -> SnapshotConfig:
        """The same for one of several folds: each has a directory of its own there."""
        return self if num_folds == 1 else replace(self, directory=self.where(home) / fold_name(number))


class Snapshots:
    """Writes a snapshot of an open store whenever the newest is old enough. A failure is logged and stops nothing."""

    def __init__(self, store: Store, home: Path, config: SnapshotConfig) -> None:
        self._store, self._directory, self._config = store, config.where(home), config
        self._every_seconds = 60 * config.every_minutes
        self._due_at = monotonic() + self._every_seconds - self._newest_age_seconds()
        self._thread: Thread | None = None

    def upkeep(self) -> None:
        """Begin one if it is time; returns at once. Call it every few seconds."""
        if (
            self._every_seconds
            and monotonic() >= self._due_at
            and (self._thread is None or not self._thread.is_alive())
        ):
            self._due_at = monotonic() + self._every_seconds
            self._thread = Thread(target=self._write, name="snapshot", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait for the one under way: the store must stay open so long."""
        if self._thread is not None:
            self._thread.join()

    def _write(self) -> None:
        try:
            snapshot = write_snapshot(self._store, self._directory, self._config.keep)
            _log.info("snapshot written", extra={"path": str(snapshot.path), "version": snapshot.version})
        except (StoreError, OSError) as error:
            _log.error("no snapshot was written: %s", error)

    def _newest_age_seconds(self) -> float:
        """Of the newest snapshot, at most the time between two: 0 where there is none."""
        found = list_snapshots(self._directory, self._store.stage)
        age = time() - found[-1].path.stat().st_mtime if found else 0.0
        return min(max(age, 0.0), self._every_seconds)
