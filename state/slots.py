# Slots: where the processes of a home keep their metrics, so that one of them can tell those of all.
from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Lock

from prometheus_client import Counter, Metric, values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.samples import Sample

from state.lock import is_held, take_lock

STARTS = "runnel_process_starts"
# Buckets of times since the log's stamp of an event; stages and replicas count in the same ones.
FRESH_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.06, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_UNREADABLE = (OSError, struct.error, RuntimeError, ValueError)  # what a file that is gone or cut short raises


# Files that this project's instruments write, and room for some 1,500 values in each.
_KINDS, _FILE_BYTES = ("counter", "histogram", "gauge_mostrecent"), 1 << 18


class _Identity:
    """The name of a slot; prometheus_client opens its files anew when it meets another object."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name


class Slot:
    """One process's place in a folder of metrics, held by a lock until the process ends, however it does.

    A slot's name is the process's and the lowest number that is free: fold-0, serve-0, serve-1. Counts are in files
    named after it, and whoever has the slot next goes on counting in them; gauges are told anew. The folder is a cache:
    `keep` makes it again where somebody deleted it.
    """

    def __init__(self, folder: Path, process: str) -> None:
        """Instruments made from now on in this process write to the slot. The name holds neither "_" nor "/"."""
        self._folder, self._process, self._mutex = folder, process, Lock()
        self._identity, self._lock = self._take()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # prometheus_client has no other door for it
        values.ValueClass = values.MultiProcessValue(lambda: self._identity)  # type: ignore[no-untyped-call]
        Counter(STARTS, "Processes that took a slot", ["process"], registry=None).labels(self.name).inc()

    @property
    def name(self) -> str:
        """The process's name and its number."""
        return self._identity.name

    def keep(self) -> bool:
        """Make the files again where they were deleted, and tell so: counts begin at 0 then, and gauges are to be set
        again. Call it every few seconds."""
        with self._mutex:  # a replica is asked for its health and its metrics at once
            is_gone = os.fstat(self._lock).st_nlink == 0
            if is_gone:
                os.close(self._lock)
                self._identity, self._lock = self._take()
        return is_gone

    def read(self) -> Iterable[Metric]:
        """The metrics of all processes that have a slot in the folder."""
        return read_slots(self._folder)

    def _take(self) -> tuple[_Identity, int]:
        self._folder.mkdir(parents=True, exist_ok=True)
        names = (f"{self._process}-{number}" for number in count())
        taken = ((name, take_lock(self._folder / f"{name}.lock")) for name in names)
        name, lock = next((name, lock) for name, lock in taken if lock is not None)
        for path in self._folder.glob(f"*_{name}.db"):
            if path.name.startswith("gauge_") or not _is_readable(path):
                path.unlink(missing_ok=True)
        for kind in _KINDS:
            _allocate(self._folder / f"{kind}_{name}.db")
        return _Identity(name), lock


def has_slot(folder: Path, process: str) -> bool:
    """Whether a process of this name has a slot in the folder now."""
    return any(is_held(lock) for lock in folder.glob(f"{process}-*.lock"))


def _allocate(path: Path) -> None:
    """Have every block of a file on disk before it is written through memory: where a block is missing on a full disk,
    the write would end the process (SIGBUS). Where there is no room now, it has to do without."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with suppress(OSError):
            os.posix_fallocate(file, 0, max(_FILE_BYTES, os.fstat(file).st_size))
    finally:
        os.close(file)


def read_slots(folder: Path) -> list[Metric]:
    """The metrics in a folder of slots, added up; a gauge that is told by process has the label `process`.

    What processes have counted that are no more stays in; their gauges do not, for what they tell is no longer so.
    """
    alive = {lock.stem for lock in folder.glob("*.lock") if is_held(lock)}
    paths = [path for path in sorted(folder.glob("*.db")) if _tells(path, alive)]
    try:
        metrics = _merge(paths)
    except _UNREADABLE:  # made, deleted or cut short just now
        metrics = _merge([path for path in paths if _is_readable(path)])
    for metric in metrics:
        metric.samples = [_by_process(sample) for sample in metric.samples]
    return metrics


def _merge(paths: Iterable[Path]) -> list[Metric]:
    return list(MultiProcessCollector.merge([str(path) for path in paths]))  # type: ignore[no-untyped-call]


def _tells(path: Path, alive: set[str]) -> bool:
    return not path.name.startswith("gauge_") or path.stem.rpartition("_")[2] in alive


def _is_readable(path: Path) -> bool:
    try:
        for _ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
            pass
    except _UNREADABLE:
        return False
    return True


def _by_process(sample: Sample) -> Sample:
    labels = {"process" if name == "pid" else name: value for name, value in sample.labels.items()}
    return sample._replace(labels=labels)
