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
from models.base import Batch, Query
from models.candidates import picked
from models.checks import check_batch, num_items_of
from models.encode_one import Entries, encode_one
from models.examples import in_steps, newest_entries
from models.memo import Memo
from models.negatives import RecentItems, inclusion, not_competing
from models.optimizer import DenseAdam, FlatWeights, adagrad_rows
from models.random_state import generator_state, load_generator_state
from models.step import Compute, Step, gradient_of
from models.tables import CellTable, RowTable

_Others: TypeAlias = tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class TransformerConfig:
    """Shape and training of the transformer."""

    width: int = 64
    window: int = 12  # newest entries read, across sessions
    num_layers: int = 1
    num_heads: int = 2
    init_scale: float = 0.05  # standard deviation of a new item's vector
    dense_rate: float = 1e-3  # Adam
    row_rate: float = 0.08  # Adagrad
    row_decay: float = 0.999  # of a row's squared gradients, at each of its updates
    num_recent: int = 512  # negatives drawn from the newest takings
    num_uniform: int = 128  # negatives drawn from all items
    recent_capacity: int = 4096  # newest takings that negatives are drawn from
    max_step: int = 128  # examples of one step: a larger batch is learned in several, in its order


class Transformer:
    """SASRec (Kang & McAuley 2018) on a stream: score is the dot product of the history's state and an item's vector.

    An example with label 1 has loss log(1 + exp(m)), m = log sum_{j != y} e^{s_j} - s_y: the softmax of its target y
    over all items, the sum estimated from the batch's targets and drawn negatives. A skipped target has
    log(1 + exp(-m)): it is pushed below the others. Items of the session do not compete: they are not recommended
    again, and a model that learns to avoid them has less room for the rest.
    """

    name = "transformer"
    replays = True

    def __init__(self, rng: np.random.Generator, config: TransformerConfig | None = None) -> None:
        self.config = config or TransformerConfig()
        self.rng = rng
        self.items = RowTable(self.config.width, num_slots=self.config.width)
        self.encoder = Encoder(self.config.width, self.config.window, self.config.num_layers, self.config.num_heads)
        self.encoder.initialise(torch.Generator().manual_seed(int(rng.integers(2**62))))
        self.adam = DenseAdam(FlatWeights(self.encoder), self.config.dense_rate)
        self.compute: Compute = gradient_of  # here and now; a learn group has its ranks do it together
        self._weights = {name: weight.detach().numpy() for name, weight in self.encoder.named_parameters()}  # views
        self.recent = RecentItems(self.config.recent_capacity)
        self.refused_updates = 0  # steps not taken because a gradient was not finite
        self._memo = Memo((self.items,))

    @property
    def num_items(self) -> int:
        return self.items.size

    @property
    def tables(self) -> Mapping[str, RowTable | CellTable]:
        return {"items": self.items}

    def learn(self, batch: Batch) -> float:
        check_batch(batch)
        if len(batch.items) == 0:
            return math.nan
        self._grow(batch)
        self.recent.add(batch.items[batch.labels > 0], self.items.size)
        return in_steps(batch, self.config.max_step, self._update)

    def score(self, query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Dot products of states and item vectors; -inf for an unknown item."""
        kept = self._memo.get(query)
        if items is None:
            return kept if kept is not None else self._memo.keep(query, self._score_all(query))
        if kept is not None:
            return picked(kept, np.broadcast_to(items, (len(kept), items.shape[-1])), -np.inf)
        known = self.items.has(items)
        vectors = np.zeros((*items.shape, self.config.width), np.float32)
        vectors[known] = self.items.values[items[known]]
        scores = np.einsum("qd,...md->qm" if items.ndim == 1 else "qd,qmd->qm", self.encode(query), vectors)
        return np.where(known, scores, np.float32(-np.inf)).astype(np.float32)

    def _score_all(self, query: Query) -> NDArray[np.float32]:
        # A whole number of the kernel's blocks: it adds up the rows that are left over in another order, and so an
        # item's score would depend on its number.
        num_rows = min(-(-self.items.size // 16) * 16, len(self.items.values))
        vectors = self.items.values[:num_rows].astype(np.float32, copy=False)
        scores: NDArray[np.float32] = (self.encode(query) @ vectors.T)[:, : self.items.size]
        present = self.items.present[: self.items.size]
        if not present.all():
            scores[:, ~present] = -np.inf
        return scores

    def encode(self, query: Query) -> NDArray[np.float32]:
        """[Q, d] states of the histories; compare by dot product with `item_vectors`."""
        items, known, others = self._inputs(query)
        vectors = np.zeros((*items.shape, self.config.width), np.float32)
        vectors[known] = self.items.values[items[known]]
        if len(items) == 1:  # a request
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
        return {name: weight.detach().numpy().copy() for name, weight in self.encoder.named_parameters()}

    def load_dense(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        with torch.no_grad():
            for name, weight in self.encoder.named_parameters():
                weight.copy_(torch.from_numpy(np.asarray(weights[name], np.float32)))
        self.items.changes += 1  # what was computed with the old weights is stale

    def training_state(self) -> dict[str, NDArray[np.generic]]:
        own = {"generator": generator_state(self.rng), "refused_updates": np.array([self.refused_updates])}
        return {**self.adam.state(), **self.recent.state(), **own}

    def load_training_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self.adam.load(state)
        self.recent.load(state)
        load_generator_state(self.rng, state["generator"])
        self.refused_updates = int(state["refused_updates"][0])

    def _grow(self, batch: Batch) -> None:
        """Draw vectors for all new items, and for those of the batch that had been removed."""
        first, num_items = self.items.size, num_items_of(batch)
        self.items.grow(num_items)
        self._draw(np.arange(first, num_items))
        items = np.concatenate([batch.items, batch.query.items.ravel()])
        items = items[items >= 0]
        self._draw(np.unique(items[~self.items.present[items]]))

    def _draw(self, rows: NDArray[np.int64]) -> None:
        if len(rows):
            shape = (len(rows), self.config.width)
            self.items.values[rows] = self.rng.standard_normal(shape, np.float32) * self.config.init_scale
            self.items.touch(rows)

    def _inputs(self, query: Query) -> tuple[NDArray[np.int64], NDArray[np.bool_], _Others]:
        """[Q, window] item numbers, which have a vector, and what else the encoder takes of each entry."""
        newest = newest_entries(query, self.config.window)
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
        self.adam.step(gradient.dense)
        adagrad_rows(
            torch.from_numpy(self.items.values),
            torch.from_numpy(self.items.slots),
            torch.from_numpy(rows),
            gradient.rows,
            self.config.row_rate,
            self.config.row_decay,
        )
        self.items.touch(rows)
        return float(gradient.loss)

    def _step(self, batch: Batch) -> tuple[Step, NDArray[np.int64]]:
        """What the gradient of a batch is computed from, and the R row numbers of its vectors, ascending."""
        items, known, others = self._inputs(batch.query)
        columns, chance = self._columns(batch.items)
        rows, places = np.unique(np.concatenate([items[known], columns]), return_inverse=True)
        entries = np.zeros(items.shape, np.int64)
        entries[known] = places[: -len(columns)]
        targets = np.searchsorted(columns, batch.items)
        weights = batch.weights.astype(np.float32)
        step = Step(
            self.items.values[rows].astype(np.float32, copy=False),
            places[-len(columns) :],
            np.log(chance),
            torch.from_numpy(weights).sum().clamp(min=1e-12).numpy(),
            entries,
            known,
            *others,
            targets,
            not_competing(batch.query, columns, targets),
            np.where(batch.labels > 0, 1.0, -1.0).astype(np.float32),
            weights,
        )
        return step, rows

    def _columns(self, targets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The items that compete, ascending, each once, and the chance each had to be among them."""
        drawn = self.recent.draw(self.config.num_recent, self.rng)
        uniform = self.rng.integers(self.items.size, size=self.config.num_uniform)
        columns = np.unique(np.concatenate([targets, drawn, uniform]))
        columns = columns[self.items.present[columns]]  # a draw may hit an item that was removed
        num_drawn = len(targets) + len(drawn)
        chance = inclusion(self.recent.shares(columns), num_drawn, len(uniform), self.items.size)
        return columns, chance.astype(np.float32)
