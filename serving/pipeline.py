# The request path: a list of small steps, run by one loop that times each.
from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Protocol

from serving.metrics import ServingMetrics
from serving.moment import Moment, Moments
from serving.problems import Problem


class Step(Protocol):
    """One word of the request path. It reads what earlier steps left in the moment and leaves its own."""

    name: str

    def __call__(self, moment: Moment) -> None:
        """Do the step. Raises Problem where the request asks for what cannot be."""
        ...


class JointStep(Protocol):
    """A step in which models look at all moments, at least one, at once."""

    name: str

    def __call__(self, moments: Moments) -> None: ...


class Each:
    """A step taken for one moment after the other; one whose request asks for what cannot be goes no further."""

    def __init__(self, step: Step) -> None:
        self.name, self._step = step.name, step

    def __call__(self, moments: Moments) -> None:
        for moment in moments.each:
            try:
                self._step(moment)
            except Problem as problem:
                moment.problem = problem
        moments.refuse()


class Pipeline:
    """record → query → sources → filters → score → select → respond → log the slate."""

    def __init__(self, steps: Sequence[JointStep], metrics: ServingMetrics) -> None:
        self._steps = [(step, metrics.step_seconds.labels(step.name)) for step in steps]

    def run(self, moments: Moments) -> None:
        """Take the moments through all steps, all of them through one before the next."""
        for step, seconds in self._steps:
            num, start = len(moments.each), perf_counter()
            if num == 0:
                return
            step(moments)
            spent = (perf_counter() - start) / num
            for _ in range(num):
                seconds.observe(spent)
