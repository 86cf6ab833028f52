# Which folder of a store holds its files: a compaction writes a new one and makes it the current one by one rename.
from __future__ import annotations

import os
import shutil
from pathlib import Path

_CURRENT = "current"  # a symbolic link to the folder; none before the first compaction: the files lie beside it
_PREFIX = "generation-"
_FILES = ("data.mdb", "lock.mdb")


def current(path: Path) -> str:
    """Name of the folder in `path` that holds the files now, empty where they lie in `path` itself."""
    try:
        return os.readlink(f"{path}/{_CURRENT}")  # servers look often, and joining paths takes as long as the look
    except FileNotFoundError:
        return ""


def number(name: str) -> int:
    """How many compactions there were when the folder of that name became the current one."""
    return int(name.removeprefix(_PREFIX) or 0)


def is_filled(folder: Path) -> bool:
    """Whether somebody has written to the files in the folder; they may go at any time: another one is current then."""
    try:
        return (folder / _FILES[0]).stat().st_size > 0
    except FileNotFoundError:
        return False


def next_folder(path: Path) -> Path:
    """An empty folder for the next generation, which nobody reads before `switch`."""
    folder = path / f"{_PREFIX}{number(current(path)) + 1}"
    if folder.exists():  # of a compaction that did not come to its end
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def switch(path: Path, folder: Path) -> None:
    """Make a folder the current one: whatever stops the process, it is that one or the one before."""
    for file in [*folder.iterdir(), folder]:
        sync(file)
    draft = path / f"{_CURRENT}.new"
    draft.unlink(missing_ok=True)
    draft.symlink_to(folder.name)
    draft.replace(path / _CURRENT)
    sync(path)


def tidy(path: Path) -> None:
    """Remove the files of all generations but the current one. For the writer; who reads old ones has them open.

    Who opens one just now makes a new lock file in it: what is left so goes the next time.
    """
    name = current(path)
    for folder in path.glob(f"{_PREFIX}*"):
        if folder.name != name:
            shutil.rmtree(folder, ignore_errors=True)
    if name:
        for file in _FILES:
            (path / file).unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file, or a folder's list of files, on disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def allocate_lock_file(folder: Path) -> None:
    """Have every block of LMDB's lock file on disk: it is written through memory, and where a block is missing on a
    full disk, that ends the process (SIGBUS). Not while this process has the store open: closing loses its locks."""
    path = folder / "lock.mdb"
    found = path.stat()
    if found.st_blocks * 512 < found.st_size:
        file = os.open(path, os.O_RDWR)
        try:
            os.posix_fallocate(file, 0, found.st_size)
        finally:
            os.close(file)
