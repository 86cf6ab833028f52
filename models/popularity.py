# Popularity: how often an item is taken, newer takings counting more.
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import Batch, Query
from models.candidates import Order, top
from models.checks import check_batch
from models.tables import CellTable, RowTable


@dataclass(frozen=True)
class PopularityConfig:
    """`half_life_seconds`: event time after which a taking counts half; infinity counts all alike."""

    half_life_seconds: float = math.inf


class Popularity:
    """Counts decayed forward in time (Cormode et al. 2009, forward decay), kept as logarithms.

    A taking at time t with weight w adds w * 2^(t / half_life), so nothing stored has to be decayed later and an
    event that comes late counts what it should. The table holds float64 log2 of that sum, added one event after the
    other, so its bytes do not depend on where batches are cut.
    """

    replays = False

    def __init__(self, config: PopularityConfig | None = None, name: str = "popularity") -> None:
        self.config = config or PopularityConfig()
        if not self.config.half_life_seconds > 0:
            raise ValueError(f"half_life_seconds = {self.config.half_life_seconds}: must be above 0")
        self.name = name
        self.counts = RowTable(width=1, wire="f8", fill=-math.inf)
        self._top: tuple[int, int, NDArray[np.int64]] | None = None  # k, changes of the table, the items

    @property
    def num_items(self) -> int:
        return self.counts.size

    @property
    def tables(self) -> Mapping[str, RowTable | CellTable]:
        return {"counts": self.counts}

    def learn(self, batch: Batch) -> float:
        check_batch(batch)
        if len(batch.items) == 0:
            return math.nan
        self.counts.grow(int(batch.items.max()) + 1)
        taken = (batch.labels > 0) & (batch.weights > 0)
        items = batch.items[taken]
        amounts = self._age(batch.query.now[taken]) + np.log2(batch.weights[taken].astype(np.float64))
        np.logaddexp2.at(self.counts.values[:, 0], items, amounts)
        self.counts.touch(items)
        return math.nan

    def score(self, query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """log2 of the decayed count as of `query.now`; -inf for an item never taken."""
        level = self.log2_counts(items)
        age = self._age(query.now)[:, None]
        anchor = age.max(initial=-math.inf)  # near 0 before the cast: log2 counts near 4e5 would lose float32 digits
        if not math.isfinite(anchor):
            return np.broadcast_to(level, (len(query.now), level.shape[-1])).astype(np.float32)
        relative = (level - anchor).astype(np.float32)
        scores: NDArray[np.float32] = relative + (anchor - age).astype(np.float32)
        return scores

    def log2_counts(self, items: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Stored log2 counts of all items [N], or of `items` in their shape; -inf for unknown ones."""
        values = self.counts.values[: self.counts.size, 0].astype(np.float64, copy=False)
        if items is None:
            return values
        if len(values) == 0:
            return np.full(items.shape, -math.inf)
        return np.where((items >= 0) & (items < len(values)), values.take(items, mode="clip"), -math.inf)

    def top(self, k: int, order: Order = None) -> NDArray[np.int64]:
        """The k items most popular now, best first (the order is the same at every moment). Do not write to it: it is
        kept for the next call, for as long as no count changes. `order` settles ties."""
        if self._top is None or self._top[:2] != (k, self.counts.changes):
            level = self.log2_counts()
            best = top(level, k, order)
            self._top = k, self.counts.changes, best[np.isfinite(level[best])]
        return self._top[2]

    def dense(self) -> dict[str, NDArray[np.float32]]:
        return {}

    def load_dense(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        pass

    def training_state(self) -> dict[str, NDArray[np.generic]]:
        return {}

    def load_training_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        pass

    def _age(self, at_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        return at_ms / (1000.0 * self.config.half_life_seconds)
