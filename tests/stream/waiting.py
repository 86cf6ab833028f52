# Waiting for a condition that another process brings about.
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

from state.offsets import get_offsets
from state.store import Stage, Store, StoreMissing


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Look again and again until the condition holds; AssertionError when it does not within the time."""
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, f"not within {seconds} s"
        sleep(0.01)


def stored_offsets(path: Path, stage: Stage | None) -> dict[str, int]:
    """The offsets of a store (of this stage, or of any), none where there is no store yet. For processes that do not
    have it open."""
    try:
        with Store(path, stage) as store, store.read() as txn:
            return get_offsets(txn, store)
    except StoreMissing:
        return {}
