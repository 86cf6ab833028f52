# Item2Vec: items that are taken near each other get vectors that point the same way.
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.base import PAD, Batch, Query
from models.candidates import picked
from models.checks import check_batch
from models.examples import newest_wanted
from models.item_vectors import ItemVectors, adagrad_table, mean_of
from models.memo import Memo
from models.popularity import Popularity, PopularityConfig
from models.random_state import generator_state, load_generator_state
from models.tables import CellTable, RowTable


@dataclass(frozen=True)
class Item2VecConfig:
    """Shape and training of Item2Vec."""

    width: int = 64
    window: int = 10  # newest wanted entries that a taking is paired with, and that a query is scored by
    num_negatives: int = 15  # drawn for each taking
    power: float = 0.75  # of an item's frequency, in drawing negatives
    common: float = 4.0  # items this many times as frequent as the average one are left out of some pairs
    half_life_seconds: float = 2_592_000.0  # of the frequencies: 30 days
    init_scale: float = 0.05  # standard deviation of a new item's vectors
    row_rate: float = 0.05  # Adagrad
    row_decay: float = 0.999  # of a row's squared gradients, at each of its updates
    decay: float = 0.6  # in scoring, weight of the k-th newest entry is decay^k


class Item2Vec:
    """Skip-gram with negative sampling on what a user takes (Barkan & Koenigstein 2016), one step a batch.

    A taking j is paired with each of the user's `window` newest takings i, the k-th newest counting (window - k) /
    window: loss -log s(u_i.v_j) - sum_n log s(-u_i.v_n), s the logistic function and n drawn by frequency^power. A
    skipped j is a negative: -log s(-u_i.v_j). Then e^(u_i.v_j) tends to p(j | i) / q_j, q what negatives are drawn by,
    so a query scores j by log q_j + the decayed mean of u_i.v_j: a log chance to be next.
    """

    name = "item2vec"
    replays = True

    def __init__(self, rng: np.random.Generator, config: Item2VecConfig | None = None) -> None:
        self.config = config or Item2VecConfig()
        self.rng = rng
        self.vectors = ItemVectors(self.config.width, self.config.init_scale)
        self.takings = Popularity(PopularityConfig(self.config.half_life_seconds))
        self.refused_updates = 0  # steps not taken because a gradient was not finite
        self._memo = Memo((*self.vectors.tables.values(), self.takings.counts))
        self._kept: tuple[tuple[int, int], NDArray[np.float32]] | None = None  # changes, item vectors

    @property
    def num_items(self) -> int:
        return self.vectors.targets.size

    @property
    def tables(self) -> Mapping[str, RowTable | CellTable]:
        return {**self.vectors.tables, "takings": self.takings.counts}

    def learn(self, batch: Batch) -> float:
        check_batch(batch)
        if len(batch.items) == 0:
            return math.nan
        self.vectors.grow(batch, self.rng)
        self.takings.learn(batch)
        return self._update(batch)

    def score(self, query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Log chances to be next, up to a constant a query; -inf for an unknown item."""
        scores = self._memo.get(query)
        if scores is None:
            scores = self.vectors.targets.products(self.encode(query)[:, :-1]) + self.item_vectors()[:, -1]
            self._memo.keep(query, scores)
        return scores if items is None else picked(scores, items, -np.inf)

    def encode(self, query: Query) -> NDArray[np.float32]:
        """[Q, d + 1] decayed means of context vectors, and 1; compare by dot product with `item_vectors`."""
        newest = newest_wanted(query.items, query.labels > 0, self.config.window)
        decay = np.float32(self.config.decay) ** np.arange(self.config.window, dtype=np.float32)
        state = mean_of(self.vectors.contexts, newest, decay)
        return np.concatenate([state, np.ones((len(state), 1), np.float32)], axis=1)

    def item_vectors(self) -> NDArray[np.float32]:
        """[num_items, d + 1] target vectors, and log q. Do not write to it: it is kept until an item changes."""
        changes = self.vectors.targets.changes, self.takings.counts.changes
        if self._kept is None or self._kept[0] != changes:
            log_mass = self.config.power * math.log(2) * self._log2_shares()
            vectors = self.vectors.targets.values[: self.num_items]
            self._kept = changes, np.column_stack([vectors, log_mass]).astype(np.float32)
        return self._kept[1]

    def dense(self) -> dict[str, NDArray[np.float32]]:
        return {}

    def load_dense(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        pass

    def training_state(self) -> dict[str, NDArray[np.generic]]:
        return {"generator": generator_state(self.rng), "refused_updates": np.array([self.refused_updates])}

    def load_training_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        load_generator_state(self.rng, state["generator"])
        self.refused_updates = int(state["refused_updates"][0])

    def _log2_shares(self) -> NDArray[np.float64]:
        """[num_items] log2 of each one's share of the takings; half the rarest one's for an item never taken."""
        level = np.full(self.num_items, -math.inf)
        level[: self.takings.num_items] = self.takings.log2_counts()
        taken = np.isfinite(level)
        if not taken.any():
            return np.zeros(len(level))
        level = np.where(taken, level, level[taken].min() - 1.0) - level.max()  # near 0, before the sum is taken
        shares: NDArray[np.float64] = level - math.log2(np.exp2(level).sum())
        return shares

    def _update(self, batch: Batch) -> float:
        """One step; the mean loss of a pair before it. Refused and counted where a gradient is not finite: then inf."""
        contexts, targets, weights, labels = self._pairs(batch)
        rows, places = np.unique(contexts[contexts >= 0], return_inverse=True)
        columns, target_places = np.unique(targets, return_inverse=True)
        if len(rows) == 0 or not weights.any():
            return math.nan
        near = np.zeros((*contexts.shape, self.config.width), np.float32)
        near[contexts >= 0] = self.vectors.contexts.values[rows][places]
        far = self.vectors.targets.values[targets].astype(np.float32, copy=False)
        loss, of_near, of_far = pair_gradients(near, far, weights, labels)
        gradients = (
            _summed(len(rows), places, of_near[contexts >= 0]),
            _summed(len(columns), target_places.ravel(), of_far.reshape(-1, self.config.width)),
        )
        if not all(torch.isfinite(gradient.sum()) for gradient in gradients):
            self.refused_updates += 1
            return math.inf
        rates = self.config.row_rate, self.config.row_decay
        adagrad_table(self.vectors.contexts, rows, gradients[0], *rates)
        adagrad_table(self.vectors.targets, columns, gradients[1], *rates)
        return loss

    def _pairs(
        self, batch: Batch
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """[B, W] contexts; [B, 1 + K] the target and what is drawn against it; [B, W, 1 + K] how much each pair counts;
        [B, 1 + K] their labels, 1 for a wanted target alone."""
        log2_shares, num, num_items = self._log2_shares(), len(batch.items), self.num_items
        present = self.vectors.targets.present[:num_items]
        mass = np.cumsum(np.exp2(self.config.power * log2_shares) * present)
        drawn = np.searchsorted(mass[:-1], self.rng.random((num, self.config.num_negatives)) * mass[-1], side="right")
        contexts = newest_wanted(batch.query.items, batch.query.labels > 0, self.config.window)
        targets = np.concatenate([batch.items[:, None], drawn], axis=1)
        kept = np.sqrt(self.config.common / num_items / np.exp2(log2_shares)).clip(max=1)  # chance to be part of a pair
        chosen = (contexts >= 0) & (self.rng.random(contexts.shape) < kept[contexts])
        chosen &= (self.rng.random(num) < kept[batch.items])[:, None] & (contexts != batch.items[:, None])
        nearness = 1 - np.arange(self.config.window) / self.config.window
        weights = np.repeat((chosen * nearness * batch.weights[:, None])[:, :, None], targets.shape[1], axis=2)
        labels = np.zeros(targets.shape, np.float32)
        labels[:, 0] = batch.labels > 0
        weights[:, :, 1:] *= (drawn != batch.items[:, None])[:, None] * labels[:, :1, None]  # a skip is one already
        return np.where(weights.any(axis=2), contexts, PAD), targets, weights.astype(np.float32), labels


@np.errstate(all="ignore")  # what is not finite is seen by who takes the step
def pair_gradients(
    near: NDArray[np.float32], far: NDArray[np.float32], weights: NDArray[np.float32], labels: NDArray[np.float32]
) -> tuple[float, NDArray[np.float32], NDArray[np.float32]]:
    """The mean logistic loss of pairs, by the weight of those of the first column, and its gradients.

    Pairs are those of contexts `near` [B, W, d] with targets `far` [B, C, d], `weights` [B, W, C]; `labels` [B, C].
    """
    logits = near @ far.transpose(0, 2, 1)  # [B, W, C]
    share = weights / weights[:, :, 0].sum().clip(1e-12)
    loss = float((share * (np.logaddexp(0, logits) - labels[:, None] * logits)).sum())
    slope = ((1 / (1 + np.exp(-logits)) - labels[:, None]) * share).astype(np.float32)
    return loss, slope @ far, slope.transpose(0, 2, 1) @ near


def _summed(num_rows: int, places: NDArray[np.int64], gradients: NDArray[np.float32]) -> torch.Tensor:
    """[num_rows, d] gradients [P, d] added up by the row that each belongs to."""
    total = torch.zeros(num_rows, gradients.shape[1])
    return total.index_add_(0, torch.from_numpy(places), torch.from_numpy(np.ascontiguousarray(gradients)))
