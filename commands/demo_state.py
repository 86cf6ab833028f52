# What the demo has measured so far; filled by the simulated users, read by the panel and the summary.
from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from commands.view_rates import ViewRates


class Spotlight(NamedTuple):
    """One user's list before and after a skip of its first item, as titles."""

    user_id: str
    before: list[str]
    after: list[str]
    milliseconds: float  # from sending the skip to the list that knows it
    shares: dict[str, float]  # by part of the score: how much of the second list's order it makes, greatest first


@dataclass
class DemoState:
    """Counts and samples; times are milliseconds where the name says so."""

    rates: ViewRates = field(default_factory=ViewRates)
    events: int = 0  # accepted by the API
    lists: int = 0
    latencies_ms: deque[float] = field(
        default_factory=lambda: deque(maxlen=100_000)
    )  # event sent to list that knows it
    errors: Counter[str] = field(default_factory=Counter)  # by what went wrong
    model_version: int = 0
    model_age_ms: int | None = None
    spotlight: Spotlight | None = None

    def latency_ms(self) -> dict[str, float | None]:
        """p50 and p99 of event to recommendation; None before the first sample."""
        if not self.latencies_ms:
            return {"p50": None, "p99": None}
        p50, p99 = np.percentile(self.latencies_ms, [50, 99])
        return {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}
