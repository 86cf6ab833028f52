# The request path: a list of small steps, run by one loop that times each.
from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Protocol

from serving.metrics import ServingMetrics
from serving.moment import Moment


class Step(Protocol):
    """One word of the request path. It reads what earlier steps left in the moment and leaves its own."""

    name: str

    def __call__(self, moment: Moment) -> None:
        """Do the step. Raises Problem where the request asks for what cannot be."""
        ...


class Pipeline:
    """record → query → sources → filters → score → select → respond → log the slate."""

    def __init__(self, steps: Sequence[Step], metrics: ServingMetrics) -> None:
        self._steps = [(step, metrics.step_seconds.labels(step.name)) for step in steps]

    def run(self, moment: Moment) -> None:
        """Take the moment through all steps."""
        for step, seconds in self._steps:
            start = perf_counter()
            step(moment)
            seconds.observe(perf_counter() - start)
