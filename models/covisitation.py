# Co-visitation: what was taken soon after the items of this session.
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Batch, Query
from models.candidates import picked
from models.examples import newest_wanted
from models.memo import Memo
from models.popularity import Popularity
from models.tables import CellTable, RowTable


@dataclass(frozen=True)
class CovisitationConfig:
    """How far back a session counts, and how large the table may grow."""

    window: int = 20  # newest wanted entries of the session that a taking is counted with
    fading: float = 0.5  # in counting, the k-th newest of them, from 1 on, counts k^-fading
    num_scored: int = 10  # newest of them that say what is taken next
    decay: float = 0.7  # in scoring, weight of the k-th newest entry, from 0 on, is decay^k
    damping: float = 0.25  # power of an item's takings that a count is divided by: 0 none, 0.5 cosine
    max_cells: int = 512  # neighbours kept of an item, see CellTable
    fallback: float = 1e-6  # the most that an item's takings add: they order items that no session joined


class Covisitation:
    """Symmetric counts C[i, j]: how often i and j were taken within `window` takings of one session, nearer ones more.

    An item scores sum_k decay^k C[i_k, j] / (n_{i_k} n_j)^damping, i_0 being the newest entry of the session and n how
    often an item was taken (streaming item cosine with damping below 1/2), plus a share of `fallback` that grows with
    n_j: less than any count, it only orders items that no session joined.
    """

    name = "covisitation"
    replays = False

    def __init__(self, config: CovisitationConfig | None = None) -> None:
        self.config = config or CovisitationConfig()
        self.cells = CellTable(self.config.max_cells)
        self.takings = Popularity()
        # In 1024ths: sums of these are exact, and so the same in whatever order they are added up.
        self._shares = [round(1024 * k**-self.config.fading) / 1024 for k in range(1, self.config.window + 1)]
        self._decays = [np.float32(self.config.decay**age) for age in range(self.config.num_scored)]
        self._memo = Memo((self.cells, self.takings.counts))
        self._taken: tuple[int, NDArray[np.float32], NDArray[np.float32]] | None = None  # changes, what follows of them

    @property
    def num_items(self) -> int:
        return self.takings.num_items

    @property
    def tables(self) -> Mapping[str, RowTable | CellTable]:
        return {"cells": self.cells, "takings": self.takings.counts}

    def learn(self, batch: Batch) -> float:
        self.takings.learn(batch)  # which checks it
        taken = np.flatnonzero((batch.labels > 0) & (batch.weights > 0))
        newest = self.newest(batch.query)[taken]
        has_one = newest[:, 0] != PAD  # the first click of a session is counted with none
        taken, newest = taken[has_one], newest[has_one]
        numbers = (newest != PAD).sum(axis=1).tolist()
        targets, weights = batch.items[taken].tolist(), batch.weights[taken].astype(np.float64).tolist()
        for rows, number, target, weight in zip(newest.tolist(), numbers, targets, weights, strict=True):
            near = zip(rows[:number], self._shares[:number], strict=True)
            pairs = [(row, weight * share) for row, share in near if row != target]
            if pairs:
                self.cells.add_pairs(target, pairs)
        return math.nan

    def score(self, query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Decayed counts of the session's newest entries; [Q, num_items], or for `items` [M] or [Q, M]."""
        scores = self._memo.get(query)
        if scores is None:
            scores = self._memo.keep(query, self._score(query))
        return scores if items is None else picked(scores, items)

    def _score(self, query: Query) -> NDArray[np.float32]:
        damping, fallback = self._by_takings()
        scores = np.repeat(fallback[None, :], len(query.now), axis=0)
        for row_scores, rows in zip(scores, self.newest(query)[:, : self.config.num_scored].tolist(), strict=True):
            known = [(row, decay) for row, decay in zip(rows, self._decays, strict=False) if 0 <= row < len(damping)]
            if known:
                cells = [self.cells.cells(row) for row, _ in known]
                columns, counts = map(np.concatenate, zip(*cells, strict=True))
                factors = np.repeat([decay * damping[row] for row, decay in known], [len(own) for own, _ in cells])
                np.add.at(row_scores, columns, counts * damping[columns] * factors)
        return scores

    def newest(self, query: Query) -> NDArray[np.int64]:
        """[Q, window] newest wanted items of each session, newest first, PAD (-1) behind them."""
        return newest_wanted(query.items, query.in_session & (query.labels > 0), self.config.window)

    def _by_takings(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """[num_items] takings to the power of -damping, 0 for an item never taken; and [num_items] the fallback."""
        changes = self.takings.counts.changes
        if self._taken is None or self._taken[0] != changes:
            level = self.takings.log2_counts()
            finite = np.isfinite(level)
            damping = np.where(finite, np.exp2(-self.config.damping * level), 0.0)
            gap = level.max(initial=-math.inf, where=finite) - np.where(finite, level, 0.0)  # halvings below the top
            fallback = np.where(finite, self.config.fallback / (1.0 + gap), 0.0)
            self._taken = changes, damping.astype(np.float32), fallback.astype(np.float32)
        return self._taken[1:]

    def dense(self) -> dict[str, NDArray[np.float32]]:
        return {}

    def load_dense(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        pass

    def training_state(self) -> dict[str, NDArray[np.generic]]:
        return {"hand": np.array([self.cells.hand], np.int64)}

    def load_training_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        if "hand" in state:  # a store of before has none
            self.cells.hand = int(state["hand"][0])
