# Tables that grow with the stream and know which rows changed since the last delta.
from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

_Scalar = TypeVar("_Scalar", bound=np.generic)
Wire = Literal["f2", "f8"]  # how a row travels and is served: fp16 for embeddings, exact float64 for counters
_BLOCK_ROWS = 4096
_KERNEL_ROWS = 16
_DTYPES: dict[Wire, type[np.floating]] = {"f2": np.float32, "f8": np.float64}


class RowTable:
    """A matrix with one row an item number (collisionless), growing by doubling.

    `values` [capacity, width] is what is served; `slots` [capacity, num_slots] float32 is the optimiser's and stays
    with the learner. Rows at or beyond `size` do not exist yet; `fill` is what a row holds until it is set, and once it
    was removed. `present` [capacity] says which rows are set. Memory holds these: what lies between is not backed.
    """

    def __init__(self, width: int, num_slots: int = 0, wire: Wire = "f2", fill: float = 0.0) -> None:
        self.width, self.num_slots, self.wire, self.fill = width, num_slots, wire, fill
        self.size = 0
        self.changes = 0  # grows with every change of rows: what was computed from them before is stale
        self.values: NDArray[np.floating] = np.full((0, width), fill, _DTYPES[wire])
        self.slots: NDArray[np.float32] = np.zeros((0, num_slots), np.float32)
        self.present: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._touched: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._gone: set[int] = set()

    def grow(self, size: int) -> None:
        """Make rows up to `size` exist (new ones hold `fill`); never shrinks."""
        if size > len(self.values):
            capacity = -(-max(size, 2 * len(self.values), 1024) // _KERNEL_ROWS) * _KERNEL_ROWS  # see `products`
            self.values = _extended(self.values, capacity, self.fill)
            self.slots = _extended(self.slots, capacity, 0.0)
            self.present = _extended(self.present, capacity, False)
            self._touched = _extended(self._touched, capacity, False)
        if size > self.size:
            self.size = size
            self.changes += 1

    def has(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these row numbers, of any shape and sign, are set."""
        found: NDArray[np.bool_] = (rows >= 0) & (rows < self.size)
        return found & self.present.take(rows, mode="clip") if self.size else found

    def at(self, rows: NDArray[np.int64], known: NDArray[np.bool_]) -> NDArray[np.float32]:
        """[..., width] these rows; zeros where one is not `known`, which `has` or a narrower mask says."""
        found = np.zeros((*rows.shape, self.width), np.float32)
        found[known] = self.values[rows[known]]
        return found

    def products(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """[Q, size] dot products of `vectors` [Q, width] with all rows; -inf for a row that is not set.

        The matrix is a whole number of a BLAS kernel's blocks: it adds up the rows that are left over in another order,
        and so an item's score would depend on its number.
        """
        num_rows = min(-(-self.size // _KERNEL_ROWS) * _KERNEL_ROWS, len(self.values))
        rows = self.values[:num_rows].astype(np.float32, copy=False)
        found: NDArray[np.float32] = (vectors @ rows.T)[:, : self.size]
        present = self.present[: self.size]
        if not present.all():
            found[:, ~present] = -np.inf
        return found

    def touch(self, rows: NDArray[np.int64]) -> None:
        """Note that these rows changed."""
        self._touched[rows] = self.present[rows] = True
        self.changes += 1

    def touch_all(self) -> None:
        """Note that every row that is set changed."""
        self.touch(np.flatnonzero(self.present[: self.size]))

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Forget these rows: they hold `fill` again, and the next delta says that they are gone."""
        rows = rows[rows < self.size]
        rows = rows[self.present[rows]]
        self.values[rows], self.slots[rows] = self.fill, 0.0
        self._touched[rows] = self.present[rows] = False
        self._gone.update(rows.tolist())
        self.changes += 1

    def take_gone(self) -> NDArray[np.int64]:
        """The rows removed since the last call, ascending; forgets them. One set anew meanwhile is also touched."""
        rows, self._gone = np.array(sorted(self._gone), np.int64), set()
        return rows

    def take_touched(self) -> NDArray[np.int64]:
        """The rows changed since the last call, ascending; forgets them."""
        rows = np.flatnonzero(self._touched[: self.size])
        self._touched[rows] = False
        return rows

    def load(
        self, rows: NDArray[np.int64], values: NDArray[np.floating], slots: NDArray[np.float32] | None = None
    ) -> None:
        """Take over rows as stored or as a delta brought them, without touching them."""
        if len(rows) == 0:
            return
        self.grow(int(rows.max()) + 1)
        self.changes += 1
        self.values[rows] = values
        self.present[rows] = True
        if slots is not None:
            self.slots[rows] = slots


class CellTable:
    """Sparse rows of counts, row item → {column item: count}; a cell of 0 does not exist.

    A row that outgrows `2 * max_cells` keeps its `max_cells` largest (ties: smaller column). Beyond `max_total` cells,
    at about 0.1 KB each, rows lose the smaller half of theirs in turn. So memory is bounded, and the result depends on
    the order of additions alone, never on where batches or commits were cut; `hand`, the row whose turn is next, is
    to be kept with the cells.
    """

    def __init__(self, max_cells: int = 512, max_total: int = 20_000_000) -> None:
        self.max_cells, self.max_total = max_cells, max_total
        self.num_cells = self.hand = self._end = 0
        self.changes = 0  # grows with every change of cells
        self.rows: dict[int, dict[int, float]] = {}
        self._touched: dict[int, set[int]] = {}
        self._arrays: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}

    def add(self, row: int, column: int, amount: float) -> None:
        """Add to one cell, and prune the row when it is full."""
        cells, touched = self._opened(row)
        touched.add(column)
        if column in cells:
            cells[column] += amount
        else:
            self._add_cell(row, cells, column, amount)

    def add_pairs(self, item: int, others: Iterable[tuple[int, float]]) -> None:
        """Add amounts to the cells that an item has with each of the others, in its row and in theirs: two calls of
        `add` for each pair, in half of their time."""
        cells, touched = self._opened(item)
        for other, amount in others:
            if item not in self.rows:  # pruned to nothing since
                cells, touched = self._opened(item)
            touched.add(other)
            if other in cells:
                cells[other] += amount
            else:
                self._add_cell(item, cells, other, amount)
            their_cells, their_touched = self._opened(other)
            their_touched.add(item)
            if item in their_cells:
                their_cells[item] += amount
            else:
                self._add_cell(other, their_cells, item, amount)

    def touch_all(self) -> None:
        """Note that every cell changed."""
        for row, cells in self.rows.items():
            self._touched.setdefault(row, set()).update(cells)
        self.changes += 1

    def remove(self, items: NDArray[np.int64]) -> None:
        """Forget the rows of these items, and their cells in the rows of those they were counted with."""
        for item in items.tolist():
            removed = set(self.rows.get(item, ()))
            self._drop(item, removed)
            for other in removed:
                if item in self.rows.get(other, ()):
                    self._drop(other, {item})
        self.changes += 1

    def cells(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """One row as (columns, counts); empty where the row does not exist. Cached until the row changes."""
        arrays = self._arrays.get(row)
        if arrays is None:
            cells = self.rows.get(row, {})
            arrays = (np.fromiter(cells, np.int64, len(cells)), np.fromiter(cells.values(), np.float32, len(cells)))
            if cells:  # an unknown row leaves no trace: scoring is pure
                self._arrays[row] = arrays
        return arrays

    def take_touched(self) -> dict[int, set[int]]:
        """Row → columns changed or removed since the last call; forgets them."""
        touched, self._touched = self._touched, {}
        return touched

    def load(self, row: int, columns: NDArray[np.int64], counts: NDArray[np.floating]) -> None:
        """Set cells as stored or as a delta brought them (0 removes), without touching them."""
        cells = self.rows.setdefault(row, {})
        before = len(cells)
        cells.update(zip(columns.tolist(), counts.tolist(), strict=True))
        if not counts.all():
            for column in columns[counts == 0].tolist():
                cells.pop(column, None)
        self.num_cells += len(cells) - before
        self._end = max(self._end, row + 1)
        if not cells:
            del self.rows[row]
        self._arrays.pop(row, None)
        self.changes += 1

    def _opened(self, row: int) -> tuple[dict[int, float], set[int]]:
        """A row's cells and its touched columns, to be written to."""
        self.changes += 1
        if row in self._arrays:
            del self._arrays[row]
        cells, touched = self.rows.get(row), self._touched.get(row)
        if cells is None:  # a default made for each call took a third of its time
            cells = self.rows[row] = {}
        if touched is None:
            touched = self._touched[row] = set()
        return cells, touched

    def _add_cell(self, row: int, cells: dict[int, float], column: int, amount: float) -> None:
        cells[column] = 0.0 + amount
        self.num_cells += 1
        self._end = max(self._end, row + 1)
        if len(cells) > 2 * self.max_cells:
            self._prune(row, self.max_cells)
        while self.num_cells > self.max_total:
            self._prune_next()

    def _prune(self, row: int, num_kept: int) -> None:
        """Keep the largest cells of a row."""
        cells = self.rows[row]
        ordered = sorted(cells.items(), key=lambda cell: (-cell[1], cell[0]))
        self._drop(row, {column for column, _ in ordered[num_kept:]})

    def _prune_next(self) -> None:
        while self.hand not in self.rows:
            self.hand = self.hand + 1 if self.hand < self._end else 0
        self._prune(self.hand, len(self.rows[self.hand]) // 2)
        self.hand += 1

    def _drop(self, row: int, columns: set[int]) -> None:
        cells = self.rows.get(row, {})
        for column in columns:
            del cells[column]
        self.num_cells -= len(columns)
        if columns:
            self._touched.setdefault(row, set()).update(columns)
            self._arrays.pop(row, None)
        if not cells:
            self.rows.pop(row, None)


def _extended(array: NDArray[_Scalar], capacity: int, fill: float | bool) -> NDArray[_Scalar]:
    """A longer copy. Zeros come from the system and take no memory until they are written to, so blocks of them, such
    as rows that were removed, are not copied."""
    shape = (capacity, *array.shape[1:])
    if fill:
        grown = np.full(shape, fill, array.dtype)
        grown[: len(array)] = array
        return grown
    grown = np.zeros(shape, array.dtype)
    for start in range(0, len(array), _BLOCK_ROWS):
        block = array[start : start + _BLOCK_ROWS]
        if block.any():
            grown[start : start + len(block)] = block
    return grown
