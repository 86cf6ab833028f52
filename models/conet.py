# CoNet: a user's vector against single items and pairs of items, learned from what the user took and skipped.
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from models.base import Batch, Query
from models.candidates import picked
from models.checks import check_batch
from models.drawn import grow_drawn
from models.examples import in_steps
from models.memo import Memo
from models.negatives import RecentItems, inclusion
from models.optimizer import DenseAdam, FlatWeights, adagrad_rows, dense_of, load_dense
from models.pairs import PairStep, Tower, attended, gradient_of
from models.resume import Resumes
from models.tables import CellTable, RowTable
from models.user_table import NOBODY, UserTable


@dataclass(frozen=True)
class CoNetConfig:
    """Shape and training of CoNet."""

    width: int = 64
    tower: tuple[int, ...] = (64, 32, 32)
    init_scale: float = 0.1  # standard deviation of a new item's vector
    num_negatives: float = 8.0  # that a wanted example counts as much as
    num_recent: int = 256  # drawn from the newest takings, to estimate these
    num_uniform: int = 128  # drawn from all items
    recent_capacity: int = 4096  # newest takings that negatives are drawn from
    pair_weight: float = 0.2  # of the loss over pairs, beside that over single items
    num_pairs: int = 4  # negative pairs of an example that are computed
    penalty: float = 0.005  # of the squared length of vectors, at each use
    row_rate: float = 0.15  # Adagrad, users and items
    row_decay: float = 0.999  # of a row's squared gradients, at each of its updates
    dense_rate: float = 1e-3  # Adam
    max_step: int = 128  # examples of one step: a larger batch is learned in several, in its order
    cache_users: int = 20_000  # rows by user in memory, beside those not yet stored


class CoNet(Resumes):
    """CoNet (Chen, Li, Zhou 2021), a variant: dot products score single items, its attention and tower score pairs.

    score(u, i) = p_u . q_i + b_i + c_u + log r. A wanted example has log(1 + e^-s) and, for `num_negatives` of the I
    items, log(1 + e^s): r = num_negatives / I is the rate at which what was not taken is kept, and log r makes the
    score the log odds of a taking. The drawn negatives are weighted by their chance, so it matters to the variance
    alone how they are drawn. `score_pairs` scores (u, anchor, candidate).

    A skipped item is a negative by itself and in no pair: in (liked, skipped) -> 0 attention puts its weight on the
    liked one, and would push that down.
    """

    name = "conet"
    replays = True

    def __init__(self, rng: np.random.Generator, config: CoNetConfig | None = None) -> None:
        self.config = config or CoNetConfig()
        self.rng = rng
        self.items = RowTable(self.config.width + 1, num_slots=self.config.width + 1)  # vector and bias
        self.users = UserTable(2 * self.items.width, self.config.cache_users)  # vector and bias, and their squares
        self.tower = Tower(self.config.width, self.config.tower)
        self.tower.initialise(torch.Generator().manual_seed(int(rng.integers(2**62))))
        self.adam = DenseAdam(FlatWeights(self.tower), self.config.dense_rate)
        self.recent = RecentItems(self.config.recent_capacity)
        self.refused_updates = 0
        self._memo = Memo((self.items, self.users))

    @property
    def num_items(self) -> int:
        return self.items.size

    @property
    def tables(self) -> Mapping[str, RowTable | CellTable]:
        return {"items": self.items}

    @property
    def user_tables(self) -> Mapping[str, UserTable]:
        """What is saved by user, read through where it is not held."""
        return {"users": self.users}

    def learn(self, batch: Batch) -> float:
        check_batch(batch)
        if len(batch.items) == 0:
            return math.nan
        width = self.config.width
        scales = np.where(np.arange(width + 1) < width, self.config.init_scale, 0.0).astype(np.float32)
        grow_drawn(self.items, batch, self.rng, scales)
        self.recent.add(batch.items[batch.labels > 0], self.items.size)
        return in_steps(batch, self.config.max_step, self._update)

    def score(self, query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Log odds that each item is what the user takes next; -inf for an unknown item."""
        kept = self._memo.get(query)
        if items is None:
            return kept if kept is not None else self._memo.keep(query, self._score_all(query))
        if kept is not None:
            return picked(kept, items, -np.inf)
        known = self.items.has(items)
        rows, users = self._rows(items, known), self._users(query)
        offsets = self._offsets(users)
        users[:, -1] = 1.0
        dots = np.einsum("qd,...md->qm" if items.ndim == 1 else "qd,qmd->qm", users, rows)
        return np.where(known, dots + offsets, -np.inf).astype(np.float32)

    def score_pairs(self, query: Query, anchors: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """[Q, M] log odds that the user takes each of items [M] or [Q, M] together with the query's anchor [Q];
        -inf where either is unknown."""
        items = np.broadcast_to(items, (len(anchors), items.shape[-1]))
        known = self.items.has(items) & self.items.has(anchors)[:, None]
        rows = torch.from_numpy(self._rows(items, known))
        anchor_rows = torch.from_numpy(self._rows(anchors, self.items.has(anchors)))[:, None].expand_as(rows)
        users = torch.from_numpy(self._users(query)[:, None])
        with torch.inference_mode():
            logits = attended(self.tower, users, anchor_rows, rows).numpy()
        return np.where(known, logits + self._log_rate(), -np.inf).astype(np.float32)

    def encode(self, query: Query) -> NDArray[np.float32]:
        """[Q, d + 1] users' vectors and 1; compare by dot product with `item_vectors`. An unknown user's is 0."""
        vectors = self._users(query)
        vectors[:, -1] = 1.0
        return vectors

    def item_vectors(self) -> NDArray[np.float32]:
        """[num_items, d + 1] vectors and biases, a view: do not write to it."""
        return self.items.values[: self.items.size].astype(np.float32, copy=False)

    def dense(self) -> dict[str, NDArray[np.float32]]:
        return dense_of(self.tower)

    def load_dense(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        load_dense(self.tower, weights)

    def _score_all(self, query: Query) -> NDArray[np.float32]:
        users = self._users(query)
        offsets = self._offsets(users)
        users[:, -1] = 1.0
        return self.items.products(users) + offsets

    def _users(self, query: Query) -> NDArray[np.float32]:
        """[Q, d + 1] users' vectors and biases."""
        return self.users.rows(_names(query).tolist())[:, : self.items.width].copy()

    def _offsets(self, users: NDArray[np.float32]) -> NDArray[np.float32]:
        """[Q, 1] what all scores of a query have in common: the user's bias and the correction."""
        return users[:, -1:] + self._log_rate()

    def _log_rate(self) -> np.float32:
        """log r, the correction for negatives that were not kept."""
        return np.float32(math.log(self.config.num_negatives / max(self.items.size, 1)))

    def _rows(self, items: NDArray[np.int64], known: NDArray[np.bool_]) -> NDArray[np.float32]:
        """[..., d + 1] rows of items; any where they are unknown."""
        if self.items.size == 0:
            return np.zeros((*items.shape, self.items.width), np.float32)
        return self.items.values[np.where(known, items, 0)].astype(np.float32, copy=False)

    def _update(self, batch: Batch) -> float:
        """One step; the loss before it. A step with a gradient that is not finite is refused and counted: then inf."""
        names, user_places = np.unique(_names(batch.query), return_inverse=True)
        users = self.users.rows(names.tolist())
        step, rows = self._step(batch, users[:, : self.items.width].copy(), user_places)
        gradient = gradient_of(self.tower, self.adam.weights, step)
        if not all(torch.isfinite(part.sum()) for part in gradient):
            self.refused_updates += 1
            return math.inf
        self.adam.step(gradient.dense)
        learned = partial(adagrad_rows, learning_rate=self.config.row_rate, decay=self.config.row_decay)
        learned(
            torch.from_numpy(self.items.values),
            torch.from_numpy(self.items.slots),
            torch.from_numpy(rows),
            gradient.items,
        )
        self.items.touch(rows)
        both = torch.from_numpy(users)
        learned(both[:, : self.items.width], both[:, self.items.width :], torch.arange(len(users)), gradient.users)
        has_id = names != NOBODY
        self.users.put(names[has_id].tolist(), users[has_id])
        return float(gradient.loss) / max(float(step.weights.sum()), 1e-12)

    def _step(
        self, batch: Batch, users: NDArray[np.float32], user_places: NDArray[np.int64]
    ) -> tuple[PairStep, NDArray[np.int64]]:
        """What the gradient of a batch is computed from, and the R row numbers of its items, ascending."""
        num, num_pairs = len(batch.items), self.config.num_pairs if self.config.pair_weight > 0 else 0
        negatives, counts = self._negatives()
        pairs = negatives[self.rng.integers(len(negatives), size=(num, 2 * num_pairs))]
        partners = self._partners(batch)
        groups = (batch.items, partners, negatives, pairs.ravel())
        rows, places = np.unique(np.concatenate(groups), return_inverse=True)
        targets, partners, negatives, flat = np.split(places, np.cumsum([len(group) for group in groups])[:-1])
        pairs = flat.reshape(pairs.shape)
        step = PairStep(
            users,
            self.items.values[rows].astype(np.float32, copy=False),
            user_places,
            targets,
            partners,
            negatives,
            counts,
            pairs[:, :num_pairs],
            pairs[:, num_pairs:],
            self.config.num_negatives / max(num_pairs, 1),
            batch.labels > 0,
            batch.weights.astype(np.float32),
            self.config.penalty,
            self.config.pair_weight,
        )
        return step, rows

    def _negatives(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Items drawn, each once, and how many of an example's negatives each stands for (Horvitz & Thompson 1952)."""
        drawn = self.recent.draw(self.config.num_recent, self.rng)
        uniform = self.rng.integers(self.items.size, size=self.config.num_uniform)
        items = np.unique(np.concatenate([drawn, uniform]))
        items = items[self.items.present[items]]  # a draw may hit an item that was removed
        chance = inclusion(self.recent.shares(items), len(drawn), len(uniform), self.items.size)
        return items, (self.config.num_negatives / self.items.size / chance).astype(np.float32)

    def _partners(self, batch: Batch) -> NDArray[np.int64]:
        """[B] an item drawn from those that each user wanted before the target; the target itself where none is."""
        query = batch.query
        keys = np.where((query.labels > 0) & self.items.has(query.items), self.rng.random(query.items.shape), -1.0)
        places = keys.argmax(axis=1)[:, None]
        drawn = np.take_along_axis(query.items, places, axis=1)[:, 0]
        return np.where(np.take_along_axis(keys, places, axis=1)[:, 0] >= 0, drawn, batch.items)


def _names(query: Query) -> NDArray[np.object_]:
    """[Q] whose the queries are."""
    return np.full(len(query.now), NOBODY, object) if query.users is None else query.users
