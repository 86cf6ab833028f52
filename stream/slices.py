# Slices: tests of an evaluation that are also counted apart, by what was known when they were scored.
from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Batch

HOUR_MS = 3_600_000


class Facts(NamedTuple):
    """What slices look at, of B examples that are about to be learned."""

    num_entries: NDArray[np.int64]  # [B] of the user's history
    item_age_ms: NDArray[np.float64]  # [B] event time since the target came first; infinite: no batch before held it


Slice = Callable[[Facts], NDArray[np.bool_]]

SLICES: Final[dict[str, Slice]] = {
    "user's 2nd": lambda facts: facts.num_entries == 1,
    "item < 1 h": lambda facts: facts.item_age_ms < HOUR_MS,
}


class FirstSeen:
    """When each item came first, in event time, of the batches so far."""

    def __init__(self) -> None:
        self._at = np.full(1024, np.inf)  # [capacity] milliseconds

    def facts(self, batch: Batch) -> Facts:
        """Of a batch that was not yet added."""
        known = batch.items < len(self._at)
        first = np.where(known, self._at[np.where(known, batch.items, 0)], np.inf)
        ages = np.where(np.isfinite(first), batch.query.now - first, np.inf)
        return Facts((batch.query.items != PAD).sum(axis=1), ages)

    def add(self, batch: Batch) -> None:
        """Note the items of a batch."""
        most = int(batch.items.max(initial=-1)) + 1
        if most > len(self._at):
            self._at = np.concatenate([self._at, np.full(max(most - len(self._at), len(self._at)), np.inf)])
        np.minimum.at(self._at, batch.items, batch.query.now.astype(np.float64))
