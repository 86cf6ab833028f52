# Which stages of the home run now: each holds its store's lock and a slot, and loses them however the process ends.
from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from serving.metrics import ServingMetrics
from state.lock import is_held
from state.slots import has_slot

_LOG = logging.getLogger("runnel.serving")


class Stages:
    """The stages that a home should have. Lists go on without them, but no longer change."""

    def __init__(self, home: Path, names: Sequence[str], metrics: ServingMetrics) -> None:
        self._locks = {name: home / name / "writer.lock" for name in names}
        self._slots, self._metrics = home / "run" / "metrics", metrics
        self._last: dict[str, str] = {}

    def look(self) -> dict[str, str]:
        """`running`, `waiting` (the process is there and its store is not open: for a disk, or a command that works on
        it) or `dead` by stage, as of now."""
        return {name: self._state(name, lock) for name, lock in self._locks.items()}

    def _state(self, name: str, lock: Path) -> str:
        if is_held(lock):
            return "running"
        return "waiting" if has_slot(self._slots, name) else "dead"

    def watch(self) -> None:
        """Look, set the gauges, and log what changed; for one thread, a few times a second."""
        states = self.look()
        for name, state in states.items():
            self._metrics.stage_up.labels(name).set(state == "running")
            before = self._last.get(name, state)
            if state == before:
                continue
            if state == "running":
                _LOG.info("the %s stage runs again", name)
            else:
                what = "has ended" if state == "dead" else "waits, and its log tells for what"
                _LOG.error("the %s stage %s; lists go on from what it has left", name, what)
        self._last = states
