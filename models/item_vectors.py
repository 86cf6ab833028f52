# Two vectors an item, as a context and as a target, and where those of a new item begin.
from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from models.base import Batch
from models.checks import num_items_of
from models.examples import newest_wanted
from models.optimizer import adagrad_rows
from models.tables import RowTable

NEAR = 10  # newest wanted entries that a new item begins at the mean of


class ItemVectors:
    """Item2Vec's u (an item as what was taken before) and v (as what is taken), [num_items, d] each."""

    def __init__(self, width: int, init_scale: float) -> None:
        self.init_scale = init_scale  # standard deviation of what is drawn
        self.contexts = RowTable(width, num_slots=width)
        self.targets = RowTable(width, num_slots=width)

    @property
    def tables(self) -> Mapping[str, RowTable]:
        return {"contexts": self.contexts, "targets": self.targets}

    def grow(self, batch: Batch, rng: np.random.Generator) -> None:
        """Set the vectors of all items that are new, and of those of the batch that had been removed.

        One that is taken begins at the mean of what was taken before it, if that has vectors; all begin with some
        noise, without which a young catalogue would shrink to one point.
        """
        first, num_items = self.contexts.size, num_items_of(batch)
        met = np.concatenate([batch.items, batch.query.items.ravel()])
        met = met[met >= 0]
        new = np.union1d(np.arange(first, num_items), met[~self.contexts.has(met)])
        if len(new) == 0:
            return
        taken, rows = np.unique(batch.items, return_index=True)
        is_new = np.isin(taken, new, assume_unique=True) & (batch.labels[rows] > 0)
        near = newest_wanted(batch.query.items[rows[is_new]], batch.query.labels[rows[is_new]] > 0, NEAR)
        for table in self.tables.values():
            table.grow(num_items)
            drawn = rng.standard_normal((len(new), table.width), np.float32) * np.float32(self.init_scale)
            drawn[np.searchsorted(new, taken[is_new])] += mean_of(table, near)
            table.values[new] = drawn
            table.touch(new)


def mean_of(
    table: RowTable, items: NDArray[np.int64], weights: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """[Q, d] mean of the vectors of each query's items [Q, K], those without one left out; zeros where none has one.

    `weights` [K] say how much each place counts; all alike, if none are given.
    """
    known = table.has(items)
    share = known * (np.float32(1) if weights is None else weights)
    share = (share / np.maximum(share.sum(axis=1, keepdims=True), 1e-12)).astype(np.float32)
    mean: NDArray[np.float32] = (share[:, None] @ table.at(items, known))[:, 0]
    return mean


def adagrad_table(table: RowTable, rows: NDArray[np.int64], gradient: torch.Tensor, rate: float, decay: float) -> None:
    """Adagrad with decay on rows of a table, each once, and the note that they changed."""
    values, squares = torch.from_numpy(table.values), torch.from_numpy(table.slots)
    adagrad_rows(values, squares, torch.from_numpy(rows), gradient, rate, decay)
    table.touch(rows)
