# Drift alarms: river's detectors on what the learner measures of each model before it learns.
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from stream.learn import LearnResult

if TYPE_CHECKING:
    from river.base import DriftDetector

DETECTORS = ("adwin", "page_hinkley")


@dataclass(frozen=True)
class DriftConfig:
    """When an alarm is raised. ADWIN watches each model's hits, Page-Hinkley its loss; only what gets worse counts."""

    may_hold: bool = False  # whether an alarm holds its model at the version it has
    adwin_delta: float = 0.002  # chance of a false alarm, roughly, at each look
    page_hinkley_threshold: float = 50.0  # how far the summed loss may stray from its mean
    min_tests: int = 200  # hits of a model before its detectors begin: river is loaded no sooner


class Alarm(NamedTuple):
    """A model's live metric got worse all at once."""

    model: str
    detector: str  # one of DETECTORS
    text: str


class DriftMonitor:
    """Follows every model's live metrics. Nothing of it is stored: it begins anew with the process that learns."""

    def __init__(self, config: DriftConfig | None = None) -> None:
        self._config = config or DriftConfig()
        self._waiting: dict[str, list[bool]] = {}
        self._hits: dict[str, _Watch] = {}
        self._losses: dict[str, _Watch] = {}

    def observe(self, step: LearnResult) -> list[Alarm]:
        """Take in a step's prequential hits and mean losses; what alarms they raise. Held models raise none."""
        hits = {name: found for name, found in step.hits.items() if name not in step.held}
        alarms = [alarm for name, found in hits.items() for alarm in self._observe_hits(name, found)]
        for name, loss in step.losses.items():
            if name in self._losses and (change := self._losses[name].update(loss)):
                alarms.append(Alarm(name, "page_hinkley", f"loss rose {change}"))
        return alarms

    def _observe_hits(self, name: str, hits: Sequence[bool]) -> Iterator[Alarm]:
        if name not in self._hits:
            waiting = self._waiting.setdefault(name, [])
            waiting += hits
            if len(waiting) < self._config.min_tests:
                return
            hits = self._waiting.pop(name)
            self._begin(name)
        for hit in hits:
            if change := self._hits[name].update(float(hit)):
                yield Alarm(name, "adwin", f"hit rate fell {change}")

    def _begin(self, name: str) -> None:
        from river.drift import ADWIN, PageHinkley  # here, for it takes a second to load

        config = self._config
        self._hits[name] = _Watch(lambda: ADWIN(delta=config.adwin_delta), -1.0)  # type: ignore[no-untyped-call]
        self._losses[name] = _Watch(lambda: PageHinkley(threshold=config.page_hinkley_threshold, mode="up"), 1.0)


class _Watch:
    """A detector, and the means before and after what it detects: it sees any change, of which one direction is bad."""

    def __init__(self, make: Callable[[], DriftDetector], worse: float) -> None:
        self._detector, self._worse = make(), worse
        self._mean = self._recent = 0.0
        self._num_seen = 0

    def update(self, value: float) -> str | None:
        """Take in a value; "from … to …" where it tells of a change for the worse."""
        self._num_seen += 1
        self._mean += (value - self._mean) / self._num_seen
        self._recent += (value - self._recent) * max(0.05, 1.0 / self._num_seen)
        self._detector.update(value)
        if not self._detector.drift_detected:
            return None
        before, after = self._mean, self._recent
        self._mean, self._num_seen = after, 1  # what is normal from now on
        return f"from {before:.3g} to {after:.3g}" if (after - before) * self._worse > 0 else None
