# Prequential metrics: how well each model ranks what comes next, recent examples counting more.
from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Batch, Model
from models.examples import cut_query
from models.rank import distinct, ranks_without, sunk


@dataclass(frozen=True)
class PrequentialConfig:
    """What is scored of the stream before it is learned."""

    rows_per_batch: int = 8  # of the first wanted examples of every second batch; 0 scores nothing
    cutoff: int = 10
    window: int = 2000  # scored examples that the fading window remembers, about
    num_lists: int = 200  # newest lists of each model, one a batch, that coverage looks at


class Prequential:
    """Fading hit rate of each model's top `cutoff`, among all items but those of the session.

    `tests` and `hits` are fading sums; their ratio is the rate. Call `observe` with a batch before it is learned.
    What coverage looks at is not stored: it begins anew with the object.
    """

    def __init__(self, config: PrequentialConfig, sums: Mapping[str, tuple[float, float]] | None = None) -> None:
        self._config = config
        self.sums: dict[str, tuple[float, float]] = dict(sums or {})  # model → (tests, hits)
        self._lists: dict[str, deque[NDArray[np.int64]]] = {}  # model → newest lists
        self._num_items: dict[str, int] = {}

    def observe(self, batch: Batch, models: Mapping[str, Model]) -> dict[str, list[bool]]:
        """Score some of the batch with each model as it stands; model → whether each was a hit."""
        rows = np.flatnonzero(batch.labels > 0)[: self._config.rows_per_batch]
        if len(rows) == 0:
            return {}
        hits_of: dict[str, list[bool]] = {}
        query, targets = cut_query(batch.query, rows), batch.items[rows]
        session = distinct(np.where(query.in_session, query.items, PAD), targets)
        fade = (1.0 - 1.0 / self._config.window) ** len(rows)
        for name, model in models.items():
            scores = model.score(query)
            found = ranks_without(scores, targets, session) <= self._config.cutoff
            tests, hits = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = (tests * fade + len(rows), hits * fade + float(np.count_nonzero(found)))
            hits_of[name] = found.tolist()
            self._list(name, scores)
        return hits_of

    def begin(self, names: Iterable[str]) -> None:
        """Forget what these models have shown."""
        for name in names:
            self.sums.pop(name, None)

    def hit_rates(self) -> dict[str, float]:
        """Model → share of recent wanted examples whose item was in its top; models never tested are left out."""
        return {name: hits / tests for name, (tests, hits) in self.sums.items() if tests > 0}

    def coverage(self) -> dict[str, float]:
        """Model → share of its items that stand in the top of its newest lists."""
        return {
            name: len(np.unique(np.concatenate(lists))) / max(self._num_items[name], 1)
            for name, lists in self._lists.items()
        }

    def _list(self, name: str, scores: NDArray[np.float32]) -> None:
        scores_of_one = sunk(scores[0])
        first = max(len(scores_of_one) - self._config.cutoff, 0)
        # A copy: a slice would keep all the places, eight bytes an item for each of the lists.
        best = np.argpartition(scores_of_one, first)[first:].copy() if first else np.arange(len(scores_of_one))
        self._lists.setdefault(name, deque(maxlen=self._config.num_lists)).append(best)
        self._num_items[name] = scores.shape[1]
