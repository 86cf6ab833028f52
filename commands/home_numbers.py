# The metrics of a home read from its files, without its API: also while that does not answer, or nothing runs.
from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from time import time

from prometheus_client import Metric

from models.base import Model
from serving.home_metrics import HomeMetrics
from state.slots import read_slots
from state.store import Store, StoreError
from state.view import View
from stream.log import EventLog


class Numbers:
    """Samples by name and labels."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for metric in metrics:
            for sample in metric.samples:
                self._samples.setdefault(sample.name, []).append((sample.labels, sample.value))

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the samples that have these labels, None without any."""
        found = [value for has, value in self._samples.get(name, []) if labels.items() <= has.items()]
        return sum(found) if found else None

    def by(self, label: str, name: str) -> dict[str, float]:
        """Value by value of a label, added up over the others."""
        values: dict[str, float] = {}
        for labels, value in self._samples.get(name, []):
            values[labels[label]] = values.get(labels[label], 0.0) + value
        return values


def read_numbers(home: Path, has_log: bool = True) -> Numbers:
    """What the processes of a home count, and what its log and stores tell; those that cannot be read are left out."""
    metrics = list(read_slots(home / "run" / "metrics"))
    if any((home / part).is_dir() for part in ("log", "fold", "learn", "follow")):
        with ExitStack() as stack:
            if (home / "follow").is_dir():  # a node, whose one store holds both
                fold = learn = _opened(home / "follow", stack)
            else:
                fold, learn = _opened(home / "fold", stack), _opened(home / "learn", stack)
            log = EventLog(home / "log") if has_log and (home / "log").is_dir() else None
            if log is not None:
                stack.callback(log.close)
            view: View[Model] = View(fold, learn, lambda _: {})
            metrics += HomeMetrics(home, view, log, lambda: int(time() * 1000)).collect()
    return Numbers(metrics)


def _opened(path: Path, stack: ExitStack) -> Path | Store:
    try:
        return stack.enter_context(Store(path))
    except StoreError:  # none yet, or not to be read: its numbers are missing
        return path
