# The lock a writer holds on its store, which tells the next one who holds it.
from __future__ import annotations

import fcntl
import os
import sys
from contextlib import suppress
from pathlib import Path
from time import sleep

_FILE = "writer.lock"
_TRIES, _PAUSE_SECONDS = 5, 0.01  # who asks whether a lock is held has it for some microseconds


class StoreError(Exception):
    """A store cannot be used; the message names its path and what to do."""


class StoreLocked(StoreError):  # noqa: N818  named for what is so, like the errors beside it
    """Another process, or another object of this one, writes the store."""


class WriterLock:
    """An flock on PATH/writer.lock, which goes when the process ends, however it does.

    The file holds "pid command" and its own inode number, and nothing once the writer has closed: that tells a copy
    made by hand of a store that was being written. Raises StoreLocked naming the pid and the command of the holder, and
    OSError where the disk does not take these lines: then nobody holds the lock.
    """

    def __init__(self, path: Path) -> None:
        file = take_lock(path / _FILE)
        if file is None:
            raise StoreLocked(f"store {path} is written by {writer_of(path)}: stop it first, or use another path")
        self._file = file
        who = f"{os.getpid()} {' '.join(sys.argv)}"[:1000].replace("\n", " ")
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, f"{who}\n{os.fstat(file).st_ino}\n".encode(), 0)
        except OSError:  # a disk that takes nothing: whoever tries again must not find the lock held by itself
            os.close(file)
            raise

    def release(self) -> None:
        """Let the next writer in."""
        with suppress(OSError):  # a disk that takes nothing: then the file still tells where it is at home
            os.ftruncate(self._file, 0)
        os.close(self._file)


def is_written(path: Path) -> bool:
    """Whether a process holds the writer's lock of the store at `path`."""
    return is_held(path / _FILE)


def writer_of(path: Path) -> str:
    """Who holds the writer's lock of a store, or had it last, for a message."""
    pid, _, command = _lines(path)[0].partition(" ")
    return f"process {pid} ({command})"


def refuse_torn(path: Path) -> None:
    """Raises StoreError where `path` is a copy, file by file, of a store that had a writer."""
    lines = _lines(path)
    if len(lines) > 1 and lines[1] != str((path / _FILE).stat().st_ino):
        text = f"store {path} is a copy of a store that was being written: it may hold pages of several versions."
        raise StoreError(f"{text} Copies come from `runnel snapshot`, or of a system that was stopped")


def _lines(path: Path) -> list[str]:
    try:
        return (path / _FILE).read_text("utf-8", "replace").splitlines() or [""]
    except FileNotFoundError:
        return [""]


def take_lock(path: Path) -> int | None:
    """The open file of an exclusive flock on `path`, which is made when absent; None where another holds it.

    Closing the file gives the lock back, and so does the end of the process, however it comes.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    for _ in range(_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            sleep(_PAUSE_SECONDS)
    os.close(file)
    return None


def is_held(path: Path) -> bool:
    """Whether a process holds the exclusive lock on `path`; where there is no such file, nobody does."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(file)
