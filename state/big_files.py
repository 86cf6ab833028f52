# Big files copied and removed a little at a time: a commit that is synced meanwhile waits for little.
from __future__ import annotations

import os
import shutil
from pathlib import Path
from threading import Thread

import lmdb

_PIECE_BYTES = 1 << 20
_STEP_BYTES = 4 << 20  # on disk before the next ones: what a commit's own sync may have to wait for


def copy_file(env: lmdb.Environment, path: Path) -> None:
    """Write the last commit of an environment to a new file, free pages too; on disk when this returns.

    Raises lmdb.Error or OSError.
    """
    source, sink = os.pipe()
    errors: list[lmdb.Error] = []

    def read() -> None:
        try:
            env.copyfd(sink)
        except lmdb.Error as error:
            errors.append(error)
        finally:
            os.close(sink)

    reading = Thread(target=read, name="copy", daemon=True)
    reading.start()
    try:
        with path.open("xb") as file:
            unsynced = 0
            while piece := os.read(source, _PIECE_BYTES):
                file.write(piece)
                unsynced += len(piece)
                if unsynced >= _STEP_BYTES:
                    file.flush()
                    os.fdatasync(file.fileno())
                    unsynced = 0
            file.flush()
            os.fsync(file.fileno())
    finally:
        os.close(source)  # a reader that still writes gets an error, and ends
        reading.join()
    if errors:
        raise errors[0]


def remove_folder(path: Path) -> None:
    """Remove a folder and what is in it; nothing where it is not there.

    A file system that gives the blocks of a whole file back at once holds up every sync for about a second a gigabyte.
    """
    for file in path.glob("*"):
        size = file.stat().st_size
        with file.open("r+b") as opened:
            while size > 0:
                size = max(0, size - _STEP_BYTES)
                opened.truncate(size)
                os.fsync(opened.fileno())
    shutil.rmtree(path, ignore_errors=True)
