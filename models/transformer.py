# A causal transformer over a user's newest entries, trained one step a batch.
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from models.attention import Encoder
from models.base import PAD, Batch, Query
from models.candidates import picked
from models.checks import check_batch
from models.drawn import grow_drawn
from models.encode_one import Entries, encode_one
from models.examples import every_target, in_steps, newest_entries, shares_of, skips_first
from models.memo import Memo
from models.negatives import RecentItems, inclusion
from models.optimizer import DenseAdam, FlatWeights, adagrad_rows, dense_of, load_dense
from models.resume import Resumes
from models.step import Compute, Step, gradient_of
from models.tables import CellTable, RowTable

_Others: TypeAlias = tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]
_Inputs: TypeAlias = tuple[NDArray[np.int64], NDArray[np.bool_], _Others]


@dataclass(frozen=True)
class TransformerConfig:
    """Shape and training of the transformer."""

    form: int = 2  # of the weights: another number than a store's tells that these do not fit; 1 had no `returns`
    width: int = 64
    window: int = 12  # newest entries read, across sessions
    num_skips: int = 1  # newest that were not wanted, of these; they stand before the wanted ones
    num_layers: int = 1
    num_heads: int = 2
    has_distances: bool = False  # attention knows how far entries are from each other; for whole sequences
    init_scale: float = 0.05  # standard deviation of a new item's vector
    dense_rate: float = 1e-3  # Adam
    row_rate: float = 0.08  # Adagrad
    row_decay: float = 0.999  # of a row's squared gradients, at each of its updates
    num_recent: int = 512  # negatives drawn from the newest takings
    num_uniform: int = 128  # negatives drawn from all items
    recent_capacity: int = 4096  # newest takings that negatives are drawn from
    whole_catalogue: int = 0  # up to so many items all compete, and none is drawn
    dropout: float = 0.0  # of what enters and of what each half of a block adds; for data that is learned many times
    max_step: int = 128  # examples, or sequences, of a step: a larger batch is learned in several, parts of all of it


class Transformer(Resumes):
    """SASRec (Kang & McAuley 2018) on a stream: score is the dot product of the history's state and an item's vector.

    An example with label 1 has loss log(1 + exp(m)), m = log sum_{j != y} e^{s_j} - s_y: the softmax of its target y
    over all items, the sum estimated from the batch's targets and drawn negatives. A skipped target has
    log(1 + exp(-m)): it is pushed below the others. Items of the session compete with a vector of their place added to
    theirs, so a model learns how likely they are taken again, and its other vectors need not.
    """

    name = "transformer"
    replays = True

    def __init__(self, rng: np.random.Generator, config: TransformerConfig | None = None) -> None:
        self.config = config or TransformerConfig()
        self.rng = rng
        self.items = RowTable(self.config.width, num_slots=self.config.width)
        shape = (self.config.width, self.config.window, self.config.num_layers, self.config.num_heads)
        self.encoder = Encoder(*shape, self.config.window if self.config.has_distances else 0)
        self.encoder.initialise(torch.Generator().manual_seed(int(rng.integers(2**62))))
        self.adam = DenseAdam(FlatWeights(self.encoder), self.config.dense_rate)
        self.window, self.pace = self.config.window, 1.0
        self.compute: Compute = gradient_of  # here and now; a learn group has its ranks do it together
        self._weights = {name: weight.detach().numpy() for name, weight in self.encoder.named_parameters()}  # views
        self.recent = RecentItems(self.config.recent_capacity)
        self.refused_updates = 0
        self._memo = Memo((self.items,))

    @property
    def num_items(self) -> int:
        return self.items.size

    @property
    def tables(self) -> Mapping[str, RowTable | CellTable]:
        return {"items": self.items}

    def learn(self, batch: Batch) -> float:
        return self._learn(batch)

    def learn_sequences(self, sequences: Query, weights: NDArray[np.float32]) -> float:
        """As LearnsSequences says; the session is that of the newest entry, as the sequences tell it, at all places."""
        return self._learn(every_target(sequences, weights, self.window))

    def _learn(self, batch: Batch) -> float:
        """Update from examples with one target, or T, each."""
        check_batch(batch)
        if len(batch.items) == 0:
            return math.nan
        grow_drawn(self.items, batch, self.rng, np.float32(self.config.init_scale))
        self.recent.add(batch.items[batch.labels > 0], self.items.size)
        return in_steps(batch, self.config.max_step, self._update)

    def score(self, query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Dot products of states and item vectors; -inf for an unknown item."""
        kept = self._memo.get(query)
        if items is None:
            return kept if kept is not None else self._memo.keep(query, self._score_all(query))
        if kept is not None:
            return picked(kept, items, -np.inf)
        known = self.items.has(items)
        inputs = self._inputs(query)
        states = self._states(inputs)
        product = "qd,...md->qm" if items.ndim == 1 else "qd,qmd->qm"
        scores = np.einsum(product, states, self.items.at(items, known))
        entries, added = self._returning(inputs, states)
        for column in np.flatnonzero((entries != PAD).any(axis=0)):
            scores += np.where(items == entries[:, column, None], added[:, column, None], np.float32(0))
        return np.where(known, scores, np.float32(-np.inf)).astype(np.float32)

    def _returning(self, inputs: _Inputs, states: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """[Q, window] each session's items, each once, PAD elsewhere, and what their places add to their scores."""
        items, known, others = inputs
        is_last = known & (others[3] > 0) & ~_repeats(items).any(axis=2)
        entries = np.where(is_last, items, PAD)
        return entries, states @ self._weights["returns.weight"][::-1].T

    def _score_all(self, query: Query) -> NDArray[np.float32]:
        inputs = self._inputs(query)
        states = self._states(inputs)
        scores = self.items.products(states)
        entries, added = self._returning(inputs, states)
        rows, columns = np.nonzero(entries != PAD)
        scores[rows, entries[rows, columns]] += added[rows, columns]
        return scores

    def encode(self, query: Query) -> NDArray[np.float32]:
        """[Q, d] states of the histories; compare by dot product with `item_vectors`."""
        return self._states(self._inputs(query))

    def _states(self, inputs: _Inputs) -> NDArray[np.float32]:
        items, known, others = inputs
        vectors = self.items.at(items, known)
        if len(items) == 1:  # a request alone
            entries = Entries(vectors[0], known[0], *(values[0] for values in others))
            return encode_one(self._weights, self.config.num_layers, self.config.num_heads, entries)[None]
        with torch.inference_mode():
            states = self.encoder(*(torch.from_numpy(values) for values in (vectors, known, *others)))
        encoded: NDArray[np.float32] = states[:, 0].numpy()
        return encoded

    def item_vectors(self) -> NDArray[np.float32]:
        """[num_items, d], a view: do not write to it."""
        return self.items.values[: self.items.size].astype(np.float32, copy=False)

    def dense(self) -> dict[str, NDArray[np.float32]]:
        return dense_of(self.encoder)

    def load_dense(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        load_dense(self.encoder, weights)
        self.items.changes += 1  # what was computed with the old weights is stale

    def _inputs(self, query: Query, is_whole: bool = False) -> _Inputs:
        """[Q, window] item numbers, which have a vector, and what else the encoder takes of each entry; as they stood
        where the queries are whole sequences, each entry of which is read from."""
        window = self.config.window
        newest = newest_entries(query, window) if is_whole else skips_first(query, window, self.config.num_skips)
        others = (newest.items >= 0, newest.labels > 0, newest.signals.astype(np.int64))
        known = self.items.has(newest.items)
        return newest.items.astype(np.int64), known, (*others, newest.in_session.astype(np.int64))

    def _update(self, batch: Batch) -> float:
        """One step; the loss before it. A step with a gradient that is not finite is refused and counted: then inf."""
        step, rows = self._step(batch)
        gradient = self.compute(self.encoder, self.adam.weights, step)
        if not all(torch.isfinite(part.sum()) for part in gradient):
            self.refused_updates += 1
            return math.inf
        self.adam.step(gradient.dense, self.pace)
        adagrad_rows(
            torch.from_numpy(self.items.values),
            torch.from_numpy(self.items.slots),
            torch.from_numpy(rows),
            gradient.rows,
            self.config.row_rate * self.pace,
            self.config.row_decay,
        )
        self.items.touch(rows)
        return float(gradient.loss)

    def _step(self, batch: Batch) -> tuple[Step, NDArray[np.int64]]:
        """What the gradient of a batch is computed from, and the R row numbers of its vectors, ascending."""
        items, known, others = self._inputs(batch.query, is_whole=batch.items.ndim > 1)
        columns, chance = self._columns(batch.items[batch.weights > 0])
        rows, places = np.unique(np.concatenate([items[known], columns]), return_inverse=True)
        entries = np.zeros(items.shape, np.int64)
        entries[known] = places[: -len(columns)]
        by_state = (len(items), -1)
        step = Step(
            self.items.values[rows].astype(np.float32, copy=False),
            places[-len(columns) :],
            np.log(chance),
            entries,
            known,
            *others,
            _session_until(items, known, others[3]),
            np.minimum(np.searchsorted(columns, batch.items), len(columns) - 1).reshape(by_state),
            np.where(batch.labels > 0, 1.0, -1.0).astype(np.float32).reshape(by_state),
            shares_of(batch.weights).reshape(by_state),
            self._noise(items.shape),
        )
        return step, rows

    def _noise(self, shape: tuple[int, int]) -> NDArray[np.float16]:
        """[B, S, L, d] factors of dropout for histories [B, L]; it is rounded to a 256th."""
        lost = round(256 * self.config.dropout)
        num = 1 + 2 * self.config.num_layers if lost else 0
        drawn = self.rng.integers(256, size=(shape[0], num, shape[1], self.config.width), dtype=np.uint8)
        return np.where(drawn >= lost, np.float16(256 / (256 - lost)), np.float16(0))

    def _columns(self, targets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The items that compete, ascending, each once, and the chance each had to be among them."""
        if self.items.size <= self.config.whole_catalogue:
            every = np.flatnonzero(self.items.present[: self.items.size])
            return every, np.ones(len(every), np.float32)
        drawn = self.recent.draw(self.config.num_recent, self.rng)
        uniform = self.rng.integers(self.items.size, size=self.config.num_uniform)
        columns = np.unique(np.concatenate([targets, drawn, uniform]))
        columns = columns[self.items.present[columns]]  # a draw may hit an item that was removed
        num_drawn = len(targets) + len(drawn)
        chance = inclusion(self.recent.shares(columns), num_drawn, len(uniform), self.items.size)
        return columns, chance.astype(np.float32)


def _session_until(
    items: NDArray[np.int64], known: NDArray[np.bool_], in_session: NDArray[np.int64]
) -> NDArray[np.int64]:
    """[Q, L] the place at which the next entry has the same item, L where none has; 0 for what has no vector or is not
    of the session."""
    is_repeated = _repeats(items)
    until = np.where(is_repeated.any(axis=2), is_repeated.argmax(axis=2), items.shape[1])
    return np.where(known & (in_session > 0), until, 0)


def _repeats(items: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[Q, L, L] whether the entry at the second place comes after that at the first and has the same item."""
    places = np.arange(items.shape[1])
    found: NDArray[np.bool_] = (items[:, :, None] == items[:, None, :]) & (places > places[:, None])
    return found
