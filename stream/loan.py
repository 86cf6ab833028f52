# Lending a store: a stage lets go of its store between two steps, so that an operator's command may write it.
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from state.lock import StoreLocked, is_held, is_written, take_lock, writer_of
from state.store_errors import naming

_FILE = "wanted.lock"  # held by the command that wants the store, or has it
_LOOK_SECONDS = 0.01


def is_wanted(path: Path) -> bool:
    """Whether a command waits for the store at `path`, or has it. A stage asks between two steps; costs 5 µs."""
    return is_held(path / _FILE)


@contextmanager
def borrowed(path: Path, patience_seconds: float = 60.0) -> Iterator[None]:
    """Have the store at `path` to oneself: its stage has let go of it, or does not run, and opens it again afterwards.

    The kernel frees the lock when this process ends, however it does: a stage never waits for a dead command. Raises
    StoreLocked where another command has the store, or where its stage does not let go within the patience.
    """
    deadline = monotonic() + patience_seconds
    with naming(path):
        file = take_lock(path / _FILE)
    if file is None:
        raise StoreLocked(f"store {path} is being worked on by another command: try again when that is done")
    try:
        while is_written(path):
            if monotonic() > deadline:
                holder = writer_of(path)
                raise StoreLocked(f"store {path}: {holder} did not let go of it within {patience_seconds:.0f} s")
            sleep(_LOOK_SECONDS)
        yield
    finally:
        os.close(file)
