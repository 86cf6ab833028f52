# Snapshots: whole copies of a store at one version, named by stage and version, of which the newest are kept.
from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from state.big_files import remove_folder
from state.lock import StoreLocked, take_lock
from state.meta import get_version
from state.store import Stage, Store
from state.store_errors import naming

_DIGITS = 12


class Snapshot(NamedTuple):
    """A store that nobody writes any more."""

    stage: Stage
    version: int
    path: Path


def list_snapshots(directory: Path, stage: Stage) -> list[Snapshot]:
    """The complete snapshots of a stage that a directory holds, oldest version first."""
    numbers = (path.name.removeprefix(f"{stage}-") for path in directory.glob(f"{stage}-*"))
    versions = sorted(int(number) for number in numbers if number.isdigit())
    return [Snapshot(stage, version, _path(directory, stage, version)) for version in versions]


def newest_together(directories: Mapping[str, Path], learn: str) -> dict[str, Snapshot]:
    """The newest snapshots of folds and of the learner that fit together, by the names in `directories`: no fold is
    behind what was learned. `learn` is the learner's name there. Empty where there are none."""
    for learned in reversed(_as_written(directories[learn], "learn")):
        with Store(learned.path) as store, store.read() as txn:
            needed = store.get_meta(txn, "fold_versions", dict[str, int]) or {}
        newest = {name: _as_written(path, "fold")[-1:] for name, path in directories.items() if name != learn}
        if all(found and found[0].version >= needed.get(name, 0) for name, found in newest.items()):
            return {name: found[0] for name, found in newest.items()} | {learn: learned}
    return {}


def write_snapshot(store: Store, directory: Path, keep: int) -> Snapshot:
    """Copy the store's last commit into the directory, then drop all but the newest `keep` (at least 1) of its stage.

    Needs no more than reading the store: its stage goes on, in this process or another. The snapshot appears complete
    or not at all. Raises StoreLocked while another is being written, StoreUnwritable where there is no room.
    """
    with naming(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with undisturbed(directory, store.stage):
        draft = directory / f"{store.stage}-new"
        remove_folder(draft)  # of a process that was killed
        store.copy(draft)
        with Store(draft) as copy, copy.read() as txn:
            version = get_version(txn, copy, store.stage)
        with naming(directory):
            (draft / "lock.mdb").unlink()
            _put(draft, _path(directory, store.stage, version))
            for old in _as_written(directory, store.stage)[: -max(keep, 1)]:
                old.path.rename(draft)
                remove_folder(draft)
    return Snapshot(store.stage, version, _path(directory, store.stage, version))


@contextmanager
def undisturbed(directory: Path, stage: Stage) -> Iterator[None]:
    """Nobody else writes or removes snapshots of the stage meanwhile. Raises StoreLocked where somebody does."""
    with naming(directory):
        lock = take_lock(directory / f"{stage}.lock")
    if lock is None:
        raise StoreLocked(f"{directory}: a {stage} snapshot is being written by another process")
    try:
        yield
    finally:
        os.close(lock)


def _put(draft: Path, path: Path) -> None:
    if path.exists():  # nothing was committed since, or it is of a store that was here before
        path.rename(old := draft.with_name(f"{draft.name}.part"))
        remove_folder(old)
    draft.rename(path)


def _as_written(directory: Path, stage: Stage) -> list[Snapshot]:
    """The newest last: a store that begins anew begins at version 1 again, so numbers do not tell."""
    found = list_snapshots(directory, stage)
    return sorted(found, key=lambda snapshot: (snapshot.path / "data.mdb").stat().st_mtime_ns)


def _path(directory: Path, stage: Stage, version: int) -> Path:
    return directory / f"{stage}-{version:0{_DIGITS}d}"
