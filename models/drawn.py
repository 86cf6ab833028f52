# Rows of items that are drawn at random when the items come.
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.base import Batch
from models.checks import num_items_of
from models.tables import RowTable


def grow_drawn(
    table: RowTable, batch: Batch, rng: np.random.Generator, scales: NDArray[np.float32] | np.float32
) -> None:
    """Draw rows, normal with standard deviation `scales` ([width] or one), for all new items of a batch and for those
    that had been removed."""
    first, num_items = table.size, num_items_of(batch)
    table.grow(num_items)
    _draw(table, np.arange(first, num_items), rng, scales)
    items = np.concatenate([batch.items.ravel(), batch.query.items.ravel()])
    items = items[items >= 0]
    _draw(table, np.unique(items[~table.present[items]]), rng, scales)


def _draw(
    table: RowTable, rows: NDArray[np.int64], rng: np.random.Generator, scales: NDArray[np.float32] | np.float32
) -> None:
    if len(rows):
        table.values[rows] = rng.standard_normal((len(rows), table.width), np.float32) * scales
        table.touch(rows)
