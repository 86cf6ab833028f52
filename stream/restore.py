# A home made from snapshots: both stores, and an event log that goes on where they stand.
from __future__ import annotations

import shutil
from pathlib import Path

from state import generation
from state.deltas import DeltaLog
from state.meta import get_version
from state.offsets import get_offsets
from state.snapshots import Snapshot, list_snapshots, undisturbed
from state.store import Stage, Store, StoreError
from state.store_errors import naming
from stream.log import PARTITION, EventLog
from stream.run import FOLD_NAME

_STAGES: tuple[Stage, ...] = ("fold", "learn")
_MARK = "restoring"  # a file in the home, from before the first store is there until both are


def restore(directory: Path, home: Path) -> dict[Stage, int]:
    """Copy the newest snapshots that fit together into a home that has no stores; their versions.

    Both stores appear complete or not at all: a restore that was killed is to be run again, which replaces what it
    left. An event log that is there must reach back to where they stand: what came later is folded and learned from
    it. Where there is none, an empty one is made that goes on there: what came after
    the snapshots is lost. Raises StoreError naming the directory, the home or the log.
    """
    for stage in _STAGES:
        if not (home / _MARK).exists() and (home / stage).is_dir() and any((home / stage).iterdir()):
            raise StoreError(f"{home / stage} is there already: restore into a home without stores")
    with undisturbed(directory, "fold"), undisturbed(directory, "learn"):
        return _restore(_newest_pair(directory), home)


def require_whole(home: Path) -> None:
    """Raise StoreError where a restore of the home was ended in its middle."""
    if (home / _MARK).exists():
        raise StoreError(f"{home} was restored in part: do it again (`runnel up --from-snapshot DIR`)")


def _restore(pair: tuple[Snapshot, Snapshot], home: Path) -> dict[Stage, int]:
    with Store(pair[0].path) as store, store.read() as txn:
        offset = get_offsets(txn, store).get(PARTITION, 0)
    log = EventLog(home / "log")
    try:
        begin, end = log.begin_offset(), log.end_offset()
        if end == 0:
            log.begin_at(offset)
        elif not begin <= offset <= end:
            raise StoreError(f"{home / 'log'} holds offsets {begin} to {end}; the snapshots go on at {offset}")
    finally:
        log.close()
    with naming(home):
        drafts = [_copy(snapshot.path, home / f"{snapshot.stage}.part") for snapshot in pair]
        (home / _MARK).touch()
        generation.sync(home)
        for snapshot, draft in zip(pair, drafts, strict=True):
            shutil.rmtree(home / snapshot.stage, ignore_errors=True)  # of a restore that was killed
            draft.rename(home / snapshot.stage)
        generation.sync(home)
        (home / _MARK).unlink()
        generation.sync(home)
    return {snapshot.stage: snapshot.version for snapshot in pair}


def _newest_pair(directory: Path) -> tuple[Snapshot, Snapshot]:
    """The newest fold and learn snapshots of which the fold's deltas go on where the learner stands."""
    for learn in reversed(list_snapshots(directory, "learn")):
        with Store(learn.path) as store, store.read() as txn:
            learned = (store.get_meta(txn, "fold_versions", dict[str, int]) or {}).get(FOLD_NAME, 0)
        for fold in reversed(list_snapshots(directory, "fold")):
            with Store(fold.path) as store, store.read() as txn:
                first, last = DeltaLog(store).first(txn), get_version(txn, store, "fold")
            if first <= learned + 1 and learned <= last:
                return fold, learn
    raise StoreError(f"{directory} holds no fold and learn snapshots that fit together")


def _copy(snapshot: Path, draft: Path) -> Path:
    """A snapshot's store in a folder that is on disk when this returns."""
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(snapshot, draft)
    (draft / "lock.mdb").unlink(missing_ok=True)
    for file in draft.iterdir():
        generation.sync(file)
    generation.sync(draft)
    return draft
