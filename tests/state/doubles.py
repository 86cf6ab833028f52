# Models for tests: the tables are the real ones, the learning is made up.
from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from models.tables import CellTable, RowTable


class UserTable:
    """Rows by user, all in memory."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._rows: dict[bytes, NDArray[np.float32]] = {}
        self._touched: set[bytes] = set()

    def set(self, user: bytes, row: NDArray[np.float32]) -> None:
        self._rows[user] = row.astype(np.float32)
        self._touched.add(user)

    def take_touched(self) -> list[bytes]:
        touched, self._touched = list(self._touched), set()
        return touched

    def bind(self, read: Callable[[bytes], NDArray[np.float32] | None] | None) -> None:
        """All rows are here."""

    def forget(self, user: bytes) -> None:
        self._rows.pop(user, None)
        self._touched.discard(user)

    def row(self, user: bytes) -> NDArray[np.float32] | None:
        return self._rows.get(user)


class TableModel:
    """A model with one table of each kind and one dense weight."""

    def __init__(self) -> None:
        self.embeddings, self.counters, self.cells = RowTable(4, num_slots=2), RowTable(2, wire="f8"), CellTable(4)
        self.tables: Mapping[str, RowTable | CellTable] = {
            "embeddings": self.embeddings,
            "counters": self.counters,
            "cells": self.cells,
        }
        self.users = UserTable(3)
        self.user_tables = {"users": self.users}
        self.weights = np.zeros((2, 3), np.float32)
        self.state: dict[str, NDArray[np.generic]] = {"moment": np.zeros(2, np.float64)}

    def dense(self) -> dict[str, NDArray[np.float32]]:
        return {"weights": self.weights.copy()}

    def load_dense(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self.weights = weights["weights"].copy()

    def training_state(self) -> dict[str, NDArray[np.generic]]:
        return self.state

    def load_training_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self.state = dict(state)

    def change(self, rng: np.random.Generator, num_items: int) -> None:
        """Change some of everything, for items below `num_items`."""
        rows = np.unique(rng.integers(0, num_items, 3))
        for table in (self.embeddings, self.counters):
            table.grow(num_items)
            table.values[rows] = rng.normal(size=(len(rows), table.width))
            table.touch(rows)
        self.embeddings.slots[rows] = rng.normal(size=(len(rows), 2))
        for row, column in rng.integers(0, num_items, (6, 2)).tolist():
            self.cells.add(row, column, float(rng.random()))
        for user in np.flatnonzero(rng.random(4) < 0.7):
            self.users.set(b"u%d" % user, rng.normal(size=3).astype(np.float32))
        self.weights = self.weights + rng.normal(size=(2, 3)).astype(np.float32)
        self.state = {"moment": rng.normal(size=2)}
