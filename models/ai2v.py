# AI2V: Item2Vec whose user depends on the item that is scored.
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.attend_one import Past, attend_one
from models.base import PAD, Batch, Query
from models.candidates import picked
from models.checks import check_batch
from models.examples import Places, cut_query, in_steps, newest_entries, shares_of, skips_first
from models.item_vectors import ItemVectors, adagrad_table
from models.memo import Memo
from models.negatives import RecentItems, inclusion, not_competing
from models.optimizer import DenseAdam, FlatWeights, dense_of, load_dense
from models.resume import Resumes
from models.softmax_loss import sampled_softmax
from models.tables import CellTable, RowTable
from models.target_attention import NUM_GAPS, History, TargetAttention, Targets

_MAX_ROWS = 64  # histories at a time, of like length: what is padding costs as much as what is none
_MAX_LOGITS = 2_000_000  # of attention at a time, in scoring: what a cache holds
_NUM_SKIPS = 1  # newest that were not wanted, of those read; they stand before the wanted ones, as the transformer's


@dataclass(frozen=True)
class AI2VConfig:
    """Shape and training of AI2V."""

    width: int = 64
    window: int = 20  # entries read, across sessions: the newest wanted ones and _NUM_SKIPS
    num_heads: int = 2
    num_hidden: int = 32
    init_scale: float = 0.05  # standard deviation of a new item's vectors
    dense_rate: float = 1e-3  # Adam
    row_rate: float = 0.08  # Adagrad
    row_decay: float = 0.999  # of a row's squared gradients, at each of its updates
    num_recent: int = 96  # negatives drawn from the newest takings
    num_uniform: int = 32  # negatives drawn from all items
    recent_capacity: int = 4096  # newest takings that negatives are drawn from
    max_step: int = 128  # examples of one step: a larger batch is learned in several, in its order


class AI2V(Resumes):
    """Attentive Item2Vec (Barkan, Caciularu, Katz & Koenigstein 2020) on a stream.

    Of the newest entries l_m that the user wanted, with the newest skip before them, the target j gathers
    z_j = R [sum_m a_jm B_c u_{l_m}] over heads, a_j = softmax_m of s cos(A_c u_{l_m}, A_t v_j) + what place, time
    since, signal and session say; its score is W_1 relu(W_0 [z, v, z o v, |z - v|]) + b_j with v = B_t v_j. Loss and
    skips are the transformer's, the softmax estimated from drawn negatives that all examples of a step share.
    """

    name = "ai2v"
    replays = True

    def __init__(self, rng: np.random.Generator, config: AI2VConfig | None = None) -> None:
        self.config = config or AI2VConfig()
        self.rng = rng
        self.vectors = ItemVectors(self.config.width, self.config.init_scale)
        self.biases = RowTable(1, num_slots=1)
        self.scorer = TargetAttention(
            self.config.width, self.config.window, self.config.num_heads, self.config.num_hidden
        )
        self.scorer.initialise(torch.Generator().manual_seed(int(rng.integers(2**62))))
        self.adam = DenseAdam(FlatWeights(self.scorer), self.config.dense_rate)
        self._weights = {name: weight.detach().numpy() for name, weight in self.scorer.named_parameters()}  # views
        self.recent = RecentItems(self.config.recent_capacity)
        self.refused_updates = 0
        self._memo = Memo((self.vectors.contexts, self.vectors.targets, self.biases))
        self._projected: tuple[tuple[int, int], Targets] | None = None  # changes, all items

    @property
    def num_items(self) -> int:
        return self.vectors.targets.size

    @property
    def tables(self) -> Mapping[str, RowTable | CellTable]:
        return {**self.vectors.tables, "biases": self.biases}

    def learn(self, batch: Batch) -> float:
        check_batch(batch)
        if len(batch.items) == 0:
            return math.nan
        self.vectors.grow(batch, self.rng)
        self.biases.grow(self.num_items)
        self.recent.add(batch.items[batch.labels > 0], self.num_items)
        return in_steps(batch, self.config.max_step, self._update)

    def score(self, query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Logits of the softmax over items; -inf for an unknown item."""
        kept = self._memo.get(query)
        if items is None:
            return kept if kept is not None else self._memo.keep(query, self._score(query, None))
        if kept is not None:
            return picked(kept, items, -np.inf)
        return self._score_one(query, items) if len(query.now) == 1 else self._score(query, items)

    @torch.inference_mode()
    def _score(self, query: Query, items: NDArray[np.int64] | None) -> NDArray[np.float32]:
        """Some queries at a time, so that what lies between stays in the processor's cache."""
        query = self._read(query)
        num = self.num_items if items is None else items.shape[-1]
        known = self.vectors.targets.present[: self.num_items] if items is None else self.vectors.targets.has(items)
        scores = np.full((len(query.now), num), -np.inf, np.float32)
        if self.num_items == 0 or num == 0:
            return scores
        if items is None:
            targets = self._all_projected()
        else:
            wanted, inverse = np.unique(np.where(known, items, 0), return_inverse=True)
            targets, places = self._project(wanted), torch.from_numpy(inverse.reshape(items.shape))
            targets = targets.at(places) if items.ndim == 1 else targets
        most = max(1, _MAX_LOGITS // (num * self.config.num_heads * (1 + self.config.window)))
        for rows in _by_length(query, most):
            has_own, is_one = items is not None and items.ndim == 2, _longest(query, rows) == 0
            history = self._history(cut_query(query, rows[:1] if is_one else rows))
            found = self.scorer(history, targets.at(places[rows]) if has_own and not is_one else targets)
            scores[rows] = (found[0][places[rows]] if has_own and is_one else found).numpy()
        return np.where(known, scores, np.float32(-np.inf))

    def _score_one(self, query: Query, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """[1, M] the scores of some items for the only query, as of a request that is answered alone."""
        has_vector = self.vectors.targets.has(items)
        if not has_vector.any():
            return np.full((1, items.shape[-1]), -np.inf, np.float32)
        newest, known, others = self._entries(self._read(query))
        vectors = self.vectors.contexts.at(newest, known)
        past = Past(vectors[0], known[0], *(values[0] for values in others))
        targets = self._vectors(np.where(has_vector, items, 0).ravel())
        scores = attend_one(self._weights, self.config.num_heads, past, *targets)
        return np.where(has_vector, scores, np.float32(-np.inf)).reshape(1, -1)

    def _all_projected(self) -> Targets:
        """All items as targets; computed anew once a row or a weight has changed."""
        changes = self.vectors.targets.changes, self.biases.changes
        if self._projected is None or self._projected[0] != changes:
            self._projected = changes, self._project(np.arange(self.num_items))
        return self._projected[1]

    def _project(self, rows: NDArray[np.int64]) -> Targets:
        """Some items as targets."""
        return self.scorer.targets(*map(torch.from_numpy, self._vectors(rows)))

    def _vectors(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """[M, d] target vectors of some items and [M] their biases."""
        vectors = self.vectors.targets.values[rows].astype(np.float32, copy=False)
        return vectors, self.biases.at(rows, rows < self.biases.size)[:, 0]  # those not learned yet are not kept

    def _history(self, query: Query) -> History:
        newest, known, others = self._entries(query)
        vectors = self.vectors.contexts.at(newest, known)
        return self.scorer.history(torch.from_numpy(vectors), *map(torch.from_numpy, (known, *others)))

    def _read(self, query: Query) -> Query:
        """What is read of the histories."""
        return skips_first(query, self.config.window, _NUM_SKIPS)

    def _entries(self, query: Query) -> tuple[NDArray[np.int64], NDArray[np.bool_], tuple[NDArray[np.generic], ...]]:
        """[Q, L] item numbers, which have a vector, and what else the scorer takes of each entry, of what is read."""
        newest = newest_entries(query, max(_longest(query, slice(None)), 1))
        seconds = np.maximum(query.now[:, None] - newest.at, 0) / 1000.0
        gaps = np.minimum(np.log2(1.0 + seconds).astype(np.int64), NUM_GAPS - 1)
        others = (newest.labels > 0, newest.signals.astype(np.int64), newest.in_session.astype(np.int64), gaps)
        return newest.items, self.vectors.contexts.has(newest.items), others

    def dense(self) -> dict[str, NDArray[np.float32]]:
        return dense_of(self.scorer)

    def load_dense(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        load_dense(self.scorer, weights)
        self.biases.changes += 1  # what was computed with the old weights is stale

    def _update(self, batch: Batch) -> float:
        """One step; the loss before it. A step with a gradient that is not finite is refused and counted: then inf."""
        drawn, chance = self._drawn()
        if len(drawn) == 0:
            return math.nan  # nothing competes
        leaves, competing, own = self._scored(batch, drawn)
        loss = _loss(batch, drawn, chance, competing, own)
        dense = self.adam.weights.gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        # nothing of contexts where nobody has a history
        steps = [(leaf.table, leaf.rows, leaf.vectors.grad) for leaf in leaves if leaf.vectors.grad is not None]
        if not all(torch.isfinite(gradient.sum()) for gradient in (dense, *(step[2] for step in steps))):
            self.refused_updates += 1
            return math.inf
        self.adam.step(dense)
        for table, rows, gradient in steps:
            adagrad_table(table, rows, gradient, self.config.row_rate, self.config.row_decay)
        return float(loss.detach())

    def _scored(self, batch: Batch, drawn: NDArray[np.int64]) -> tuple[tuple[_Leaf, ...], Tensor, Tensor]:
        """The rows that were read, [B, C] the scores of what was drawn, and [B] those of the targets."""
        query = self._read(batch.query)
        newest, known, others = self._entries(query)
        rows, entries = np.unique(newest[known], return_inverse=True)
        columns, places = np.unique(np.concatenate([drawn, batch.items]), return_inverse=True)
        contexts, targets = _Leaf.of(self.vectors.contexts, rows), _Leaf.of(self.vectors.targets, columns)
        biases = _Leaf.of(self.biases, columns)
        all_entries = np.full(newest.shape, len(rows))  # the row of zeros below
        all_entries[known] = entries
        vectors = functional.pad(contexts.vectors, (0, 0, 0, 1))
        scored, own = self.scorer.targets(targets.vectors, biases.vectors[:, 0]), torch.from_numpy(places[len(drawn) :])
        columns_scored, parts = scored.at(torch.from_numpy(places[: len(drawn)])), _by_length(query, _MAX_ROWS)
        competing, of_targets = [], []
        for part in parts:
            longest = _longest(query, part)
            read, newest_of = part if longest else part[:1], slice(-max(longest, 1), None)
            history = self.scorer.history(
                functional.embedding(torch.from_numpy(all_entries[read, newest_of]), vectors),
                *(torch.from_numpy(values[read, newest_of]) for values in (known, *others)),
            )
            competing.append(self.scorer(history, columns_scored).expand(len(part), -1))
            targets_of = own[part][:, None] if longest else own[part][None]
            of_targets.append(self.scorer(history, scored.at(targets_of)).flatten())
        places_of = torch.from_numpy(np.argsort(np.concatenate(parts)))
        return (contexts, targets, biases), torch.cat(competing)[places_of], torch.cat(of_targets)[places_of]

    def _drawn(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The items that compete with every target, ascending, each once, and the chance each had to be drawn."""
        recent = self.recent.draw(self.config.num_recent, self.rng)
        uniform = self.rng.integers(self.num_items, size=self.config.num_uniform)
        drawn = np.unique(np.concatenate([recent, uniform]))
        drawn = drawn[self.vectors.targets.present[drawn]]  # a draw may hit an item that was removed
        chance = inclusion(self.recent.shares(drawn), len(recent), len(uniform), self.num_items)
        return drawn, chance.astype(np.float32)


def _longest(query: Query, rows: Places) -> int:
    """Entries of the longest of some histories."""
    return int((query.items[rows] >= 0).sum(axis=1).max(initial=0))


def _by_length(query: Query, most: int) -> list[NDArray[np.int64]]:
    """The queries' places: those without an entry, who are one to a model, then parts of at most `most` and _MAX_ROWS,
    those of like length together."""
    lengths, size = (query.items >= 0).sum(axis=1), min(most, _MAX_ROWS)
    order, num_empty = np.argsort(lengths, kind="stable"), int(np.count_nonzero(lengths == 0))
    parts = [order[start : start + size] for start in range(num_empty, len(order), size)]
    return [order[:num_empty], *parts] if num_empty else parts


class _Leaf(NamedTuple):
    """Rows of a table that a gradient is wanted of, copied."""

    table: RowTable
    rows: NDArray[np.int64]
    vectors: Tensor

    @classmethod
    def of(cls, table: RowTable, rows: NDArray[np.int64]) -> _Leaf:
        return cls(table, rows, torch.from_numpy(table.values[rows].astype(np.float32)).requires_grad_())


def _loss(
    batch: Batch, drawn: NDArray[np.int64], chance: NDArray[np.float32], competing: Tensor, own: Tensor
) -> Tensor:
    """Weighted mean over the batch."""
    places = np.searchsorted(drawn, batch.items).clip(max=len(drawn) - 1)
    session = np.where(batch.query.in_session, batch.query.items, PAD)
    hidden = not_competing(session, drawn, np.where(drawn[places] == batch.items, places, -1))
    signs = torch.from_numpy(np.where(batch.labels > 0, 1.0, -1.0).astype(np.float32))
    weights = torch.from_numpy(shares_of(batch.weights))
    losses = sampled_softmax(competing, own, torch.from_numpy(np.log(chance)), torch.from_numpy(hidden), signs)
    return (losses * weights).sum()
