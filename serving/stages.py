# Which stages of the home run now: whoever writes a store holds its lock, and loses it however the process ends.
from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from serving.metrics import ServingMetrics
from state.lock import is_held

_LOG = logging.getLogger("runnel.serving")


class Stages:
    """The stages that a home should have. Lists go on without them, but no longer change."""

    def __init__(self, home: Path, names: Sequence[str], metrics: ServingMetrics) -> None:
        self._locks = {name: home / name / "writer.lock" for name in names}
        self._metrics = metrics
        self._last: dict[str, str] = {}

    def look(self) -> dict[str, str]:
        """`running` or `dead` by stage, as of now."""
        return {name: "running" if is_held(lock) else "dead" for name, lock in self._locks.items()}

    def watch(self) -> None:
        """Look, set the gauges, and log what changed; for one thread, a few times a second."""
        states = self.look()
        for name, state in states.items():
            self._metrics.stage_up.labels(name).set(state == "running")
            if state == "dead" and self._last.get(name) == "running":
                _LOG.error("the %s stage has ended; lists go on from what it has left", name)
            elif state == "running" and self._last.get(name) == "dead":
                _LOG.info("the %s stage runs again", name)
        self._last = states
