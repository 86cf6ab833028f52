# What can be wrong with a store, each error naming its path.
from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from state.lock import StoreError

UNSOUND = (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError, lmdb.PageNotFoundError)


class StoreTooNew(StoreError):  # noqa: N818
    """A later version of the program wrote the store."""


class StoreConfigurationChanged(StoreError):  # noqa: N818
    """The store was written under other settings than those it is opened with."""


class StoreMissing(StoreError):  # noqa: N818
    """There is no store at the path yet."""


class StoreUnwritable(StoreError):  # noqa: N818
    """The disk does not take what is written: full, read-only or broken. The store is as it was before."""


class StoreFull(StoreUnwritable):
    """The map size is used up; nothing of the transaction was written."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the store in what the file system says."""
    try:
        yield
    except OSError as error:
        raise StoreUnwritable(f"store {path} could not be written: {error}{_room(path)}") from error


def explained(path: Path, error: lmdb.Error, what: str) -> StoreError:
    """What LMDB says of a store: it is about the disk, if it is not about the file's content."""
    if isinstance(error, lmdb.MapFullError):
        return StoreFull(f"store {path} could not be {what}: it is full, give it a greater map size")
    kind = StoreError if isinstance(error, UNSOUND) else StoreUnwritable
    return kind(f"store {path} could not be {what}: {error}{_room(path)}")


def _room(path: Path) -> str:
    """LMDB says "Input/output error" too where a disk is full."""
    return f" ({shutil.disk_usage(path).free >> 20} MiB of its disk are free)" if path.exists() else ""
