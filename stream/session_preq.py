# SESSION-PREQ: test every click whose session already holds another item, on the weights before it was learned.
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Batch, Model
from models.rank import target_ranks
from stream.slices import SLICES, FirstSeen

PROTOCOL = "SESSION-PREQ"
CUTOFFS = (10, 20)


@dataclass
class Tally:
    """Hits and reciprocal ranks of one model, in sums."""

    tests: int = 0
    hits: dict[int, float] = field(default_factory=lambda: dict.fromkeys(CUTOFFS, 0.0))
    reciprocal_ranks: dict[int, float] = field(default_factory=lambda: dict.fromkeys(CUTOFFS, 0.0))

    def add(self, ranks: NDArray[np.float64]) -> None:
        """Count ranks, from 1; infinite where the target is no known item."""
        self.tests += len(ranks)
        for cutoff in CUTOFFS:
            within = ranks[ranks <= cutoff]
            self.hits[cutoff] += len(within)
            self.reciprocal_ranks[cutoff] += float((1.0 / within).sum())

    def metrics(self) -> dict[str, float]:
        """`hr@k` and `mrr@k`; 0 before the first test."""
        tests = max(self.tests, 1)
        hit_rates = {f"hr@{cutoff}": hits / tests for cutoff, hits in self.hits.items()}
        return hit_rates | {f"mrr@{cutoff}": total / tests for cutoff, total in self.reciprocal_ranks.items()}


class SessionPreq:
    """Ranks each click's item among all items seen so far, less those already in its session.

    A click is a test when its session holds another item in the user's record. An item that no batch before held is a
    miss. Ties count half. `since` holds what came after it was last emptied, for the running metric; `slices` the
    tests of each slice.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.totals = {name: Tally() for name in names}
        self.since = {name: Tally() for name in names}
        self.slices = {part: {name: Tally() for name in names} for part in SLICES}
        self.tests = 0
        self._num_seen = 0
        self._first_seen = FirstSeen()

    def observe(self, batch: Batch, models: Mapping[str, Model]) -> None:
        """Score the batch with every model as it stands; to be called before it is learned."""
        query = batch.query
        others = query.in_session & (query.items != PAD) & (query.items != batch.items[:, None])
        tested = np.flatnonzero(others.any(axis=1) & (batch.labels > 0))
        targets = np.where(batch.items < self._num_seen, batch.items, PAD)[tested]
        session = np.where(query.in_session, query.items, PAD)[tested]
        facts = self._first_seen.facts(batch)
        parts = [(self.slices[part], is_in(facts)[tested]) for part, is_in in SLICES.items()]
        for name, total in self.totals.items():
            # All of the batch is scored though not all is tested: the models share work on one and the same query.
            ranks = target_ranks(models[name].score(query)[tested], targets, session)
            total.add(ranks)
            self.since[name].add(ranks)
            for tallies, chosen in parts:
                tallies[name].add(ranks[chosen])
        self.tests += len(tested)
        self._num_seen = max(self._num_seen, int(batch.items.max(initial=-1)) + 1)
        self._first_seen.add(batch)

    def take_since(self) -> dict[str, dict[str, float]]:
        """Metrics by model since the last call; starts the next stretch."""
        metrics = {name: tally.metrics() for name, tally in self.since.items()}
        self.since = {name: Tally() for name in self.totals}
        return metrics
