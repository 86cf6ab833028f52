# The blend: candidates of all sources, ranked by a linear mix of what the other models say, learned online.
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Batch, Model, Query
from models.candidates import best_items, places_of, union
from models.checks import check_batch
from models.conet import CoNet
from models.covisitation import Covisitation
from models.examples import cut, shares_of
from models.features import (
    AGE,
    FEATURES,
    HELD,
    PART_OF,
    PLACE,
    SKIPPED,
    Likeness,
    log_counts,
    session_features,
    skipped,
)
from models.popularity import Popularity
from models.tables import CellTable, RowTable
from models.transformer import Transformer

NUM_HELD = 3  # an item is not of the session, is, or is its newest: of each there are weights
HOUR_MS = 3_600_000.0
START = {"transformer": 1.0, "covisitation": 0.3, "recent": 0.1, "trending": 0.1}  # weights before any learning


@dataclass(frozen=True)
class BlendConfig:
    """How many candidates a source gives, and how the weights learn."""

    others: tuple[str, ...] = ("conet", "ai2v")  # models beside the parts that each blend has, mixed as they score
    num_ranked: int = 50  # of each source, where all items are to be scored, and in learning
    num_session: int = 20  # newest entries of the session that are candidates too
    learning_rate: float = 0.005  # Adam
    session_bounds: tuple[int, ...] = (1, 2, 3, 5)  # sessions this long have weights of their own
    age_bounds: tuple[float, ...] = (1.0, 6.0, 24.0)  # and so have items first seen so many hours ago
    min_skip_penalty: float = 0.5  # log odds that it costs at least to be like three skips in a row, see `skipped`


@dataclass(frozen=True)
class BlendParts:
    """The models that a blend mixes; they are learned and saved by their own names."""

    popularity: Popularity
    recent: Popularity
    trending: Popularity
    covisitation: Covisitation
    transformer: Transformer
    others: tuple[Model, ...] = ()

    def __iter__(self) -> Iterator[Model]:
        counters: tuple[Model, ...] = (self.popularity, self.recent, self.trending, self.covisitation)
        return iter((*counters, self.transformer, *self.others))


class Blend:
    """score = (w_b + v_a + u_h) . features, b the length of the session in steps, a the item's age in steps, and h
    whether the session does not hold the item, does, or has it newest; learned by softmax over the candidates.

    A target competes with all candidates, and then with the list it was chosen from, where that is known. What stands
    high is taken more often whatever it is: that part is learned as a feature, `place`, which is 0 in scoring.

    `learn` changes the blend's own weights only, and notes when items were first seen. Call it before the parts learn
    the same batch, or it learns from scores that have already seen the target.
    """

    name = "blend"
    replays = False

    def __init__(self, parts: BlendParts, config: BlendConfig | None = None) -> None:
        self.parts, self.config = parts, config or BlendConfig()
        self.features = (*FEATURES, *(part.name for part in parts.others))
        start = np.array([START.get(name, 0.0) for name in self.features], np.float32)
        start[SKIPPED] = -self.config.min_skip_penalty
        ends = np.cumsum([len(self.config.session_bounds) + 1, len(self.config.age_bounds) + 1, NUM_HELD]).tolist()
        self.by_length, self.by_age, self.by_held = map(slice, [0, *ends[:-1]], ends)  # rows of the weights
        self.weights = np.zeros((ends[-1], len(start)), np.float32)
        self.weights[self.by_length] = start
        self.mean, self.square = np.zeros_like(self.weights), np.zeros_like(self.weights)
        self.num_steps = 0
        self.first_seen = RowTable(width=1, wire="f8", fill=math.inf)  # event time of the first sighting, ms
        by = next((part for part in parts.others if isinstance(part, CoNet)), parts.transformer)
        self._kinds = Likeness(by.items, by.config.width, is_centred=True)
        self._nearness = Likeness(parts.transformer.items, parts.transformer.config.width, is_centred=False)
        self._kept: tuple[Query, tuple[int, ...], NDArray[np.int64], NDArray[np.float32]] | None = None

    @property
    def num_items(self) -> int:
        return max(part.num_items for part in self.parts)

    @property
    def tables(self) -> Mapping[str, RowTable | CellTable]:
        return {"first_seen": self.first_seen}

    def learn(self, batch: Batch) -> float:
        check_batch(batch)
        if len(batch.items) == 0:
            return math.nan
        sampled = batch if batch.sampled is None else cut(batch, np.flatnonzero(batch.sampled))
        loss = self._learn(sampled)
        self.first_seen.grow(int(batch.items.max()) + 1)
        before = self.first_seen.values[batch.items, 0]
        np.minimum.at(self.first_seen.values[:, 0], batch.items, batch.query.now.astype(np.float64))
        self.first_seen.touch(batch.items[self.first_seen.values[batch.items, 0] < before])
        return loss

    def _learn(self, batch: Batch) -> float:
        """A step of all examples, then one of those whose targets were chosen from a list that is known; the loss of
        the first."""
        loss = self._update(batch, *self._pool(batch.query)) if len(batch.items) else math.nan
        if batch.shown is not None:
            listed = cut(batch, np.flatnonzero((batch.shown != PAD).any(axis=1)))
            self._update(listed, *self._listed(listed))
        return loss

    def score(self, query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Log odds up to a constant a query. None: [Q, num_items], -inf for what no source gave."""
        if items is not None:
            wanted = _of_each(query, items)
            return self._mix(query, wanted, self._features(query, wanted))
        pool, features = self._pool(query)
        scores = np.full((len(query.now), self.num_items), -np.inf, np.float32)
        rows, places = np.nonzero(pool >= 0)
        scores[rows, pool[rows, places]] = self._mix(query, pool, features)[rows, places]
        return scores

    def explain(self, query: Query, items: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """What each part adds to the scores of `items` ([M] or [Q, M]): by its name [Q, M], their sum the score."""
        wanted = _of_each(query, items)
        features = self._features(query, wanted)
        added = features * self._weights(query, features)
        parts: dict[str, NDArray[np.float32]] = {}
        for number, name in enumerate(self.features):
            if number == PLACE:
                continue
            part = PART_OF.get(name, name)
            parts[part] = parts.get(part, np.float32(0)) + added[:, :, number]
        return parts

    def candidates(self, query: Query, k: int = 200) -> dict[str, NDArray[np.int64]]:
        """A source's name to its [Q, up to k] items, best first, PAD where it has fewer."""
        parts = self.parts
        together, fallback = parts.covisitation.score(query), parts.covisitation.config.fallback
        popular = {name: getattr(parts, name).top(k, query.order) for name in ("recent", "trending")}
        return {
            "transformer": best_items(parts.transformer.score(query), k, query.order),
            "covisitation": best_items(together, k, query.order, above=fallback),
            **{name: np.tile(items, (len(query.now), 1)) for name, items in popular.items()},
        }

    def _pool(self, query: Query) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """[Q, K] candidates of all sources and their [Q, K, F] features; kept for the learning that follows."""
        changes = tuple(table.changes for part in self.parts for table in part.tables.values())
        if self._kept is not None and self._kept[0] is query and self._kept[1] == changes:
            return self._kept[2:]
        sources = self.candidates(query, self.config.num_ranked).values()
        items = union([*sources, self._session(query)])
        features = self._features(query, items)  # the models have just scored everything for this query
        self._kept = (query, changes, items, features)
        return items, features

    def _listed(self, batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """[B, S] the lists that targets were chosen from, and their [B, S, F] features."""
        assert batch.shown is not None
        features = self._features(batch.query, batch.shown)
        features[:, :, PLACE] = np.log2(1.0 + np.arange(batch.shown.shape[1]))
        return batch.shown, features

    def _session(self, query: Query) -> NDArray[np.int64]:
        """[Q, up to num_session] newest items of the session."""
        items = np.where(query.in_session & (query.items < self.num_items), query.items, PAD)
        return items[:, -self.config.num_session :]

    def _features(self, query: Query, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """[Q, M, F]"""
        parts = self.parts
        covisitation = parts.covisitation.score(query, items)
        known = (items >= 0) & (items < self.first_seen.size)
        first = np.where(known, self.first_seen.values[np.where(known, items, 0), 0] if known.any() else 0.0, np.inf)
        age = np.where(np.isfinite(first), np.maximum(query.now[:, None] - first, 0.0), 0.0) / HOUR_MS
        columns = (
            _finite(parts.transformer.score(query, items)),
            np.log2(covisitation + np.float32(0.01)),  # about one taking together of two well-known items
            *(log_counts(part.score(query, items)) for part in (parts.popularity, parts.recent, parts.trending)),
            np.log2(1.0 + age).astype(np.float32),
            np.ones(items.shape, np.float32),
            *session_features(query, items),
            _finite(skipped(query, items, self._kinds, self._nearness)),
            np.zeros(items.shape, np.float32),
            *(_finite(part.score(query, items)) for part in parts.others),
        )
        return np.stack(columns, axis=2)

    def _mix(self, query: Query, items: NDArray[np.int64], features: NDArray[np.float32]) -> NDArray[np.float32]:
        scores = np.einsum("qmf,qmf->qm", features, self._weights(query, features))
        return np.where(items >= 0, scores, np.float32(-np.inf)).astype(np.float32)

    def _weights(self, query: Query, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """[Q, M, F] of each candidate."""
        weights: NDArray[np.float32] = self.weights[self._steps(query)][:, None]
        for group in self._groups(features):
            weights = weights + self.weights[group]
        return weights

    def _steps(self, query: Query) -> NDArray[np.int64]:
        """[Q] which weights count: by the number of wanted entries in the session."""
        length = (query.in_session & (query.labels > 0) & (query.items != PAD)).sum(axis=1)
        steps: NDArray[np.int64] = np.searchsorted(np.array(self.config.session_bounds), length, side="right")
        return steps

    def _groups(self, features: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Two [Q, M] that say which weights count beside those of the session's length: by the candidate's age, and by
        whether the session does not hold it, does, or has it newest."""
        bounds = np.log2(1.0 + np.array(self.config.age_bounds))
        ages: NDArray[np.int64] = np.searchsorted(bounds, features[:, :, AGE], side="right")
        held = features[:, :, HELD].sum(axis=2).astype(np.int64)
        return self.by_age.start + ages, self.by_held.start + held

    def _update(self, batch: Batch, items: NDArray[np.int64], features: NDArray[np.float32]) -> float:
        """One Adam step on the examples whose target is a candidate; their mean loss before it."""
        places = places_of(items, batch.items)
        rows = np.flatnonzero((places >= 0) & (batch.weights > 0))
        if len(rows) == 0:
            return math.nan
        scores, own = self._mix(batch.query, items, features)[rows], places[rows]
        chance = np.exp(scores - scores.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        taken = chance[np.arange(len(rows)), own].astype(np.float64)
        slope = chance.copy()  # of -log p over scores, a taken target; of -log(1 - p) below, a skipped one
        slope[np.arange(len(rows)), own] -= 1.0
        wanted = batch.labels[rows] > 0
        slope *= np.where(wanted, 1.0, -np.minimum(taken / np.maximum(1.0 - taken, 1e-6), 5.0))[:, None]
        weights = shares_of(batch.weights[rows])
        slope *= weights[:, None]
        gradient = np.zeros_like(self.weights)
        np.add.at(gradient, self._steps(batch.query)[rows], np.einsum("qm,qmf->qf", slope, features[rows]))
        for groups in self._groups(features[rows]):
            for group in np.unique(groups):
                gradient[group] = np.einsum("qm,qmf->f", slope * (groups == group), features[rows])
        loss = -np.log(np.maximum(np.where(wanted, taken, 1.0 - taken), 1e-12))
        if not np.isfinite(gradient).all():
            return math.inf
        self._step(gradient)
        return float(loss @ weights)

    def _step(self, gradient: NDArray[np.float32]) -> None:
        self.num_steps += 1
        self.mean += 0.1 * (gradient - self.mean)
        self.square += 0.01 * (gradient * gradient - self.square)
        rate = self.config.learning_rate * (1 - 0.99**self.num_steps) ** 0.5 / (1 - 0.9**self.num_steps)
        self.weights -= np.float32(rate) * self.mean / (np.sqrt(self.square) + np.float32(1e-8))
        of_skips = self.weights[:, SKIPPED]  # a view
        of_skips[self.by_length] = np.minimum(of_skips[self.by_length], -self.config.min_skip_penalty)
        of_skips[self.by_length.stop :] = np.minimum(of_skips[self.by_length.stop :], 0.0)

    def dense(self) -> dict[str, NDArray[np.float32]]:
        return {"weights": self.weights.copy()}

    def load_dense(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        stored = np.array(weights["weights"], np.float32)
        if stored.shape != self.weights.shape:
            raise ValueError(
                f"weights of shape {stored.shape} are of another blend: this one's are {self.weights.shape}"
            )
        self.weights = stored

    def training_state(self) -> dict[str, NDArray[np.generic]]:
        moments = {"adam_mean": self.mean.copy(), "adam_square": self.square.copy()}
        return {**moments, "adam_steps": np.array([self.num_steps], np.int64)}

    def load_training_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self.mean = state["adam_mean"].astype(np.float32)
        self.square = state["adam_square"].astype(np.float32)
        self.num_steps = int(state["adam_steps"][0])


def _finite(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.isfinite(scores), scores, np.float32(0))


def _of_each(query: Query, items: NDArray[np.int64]) -> NDArray[np.int64]:
    """[Q, M] of [M] or [Q, M]"""
    return items if items.ndim == 2 else items[None].repeat(len(query.now), axis=0)
