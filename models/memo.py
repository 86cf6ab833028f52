# The scores last given, so that models which share a query do not compute them twice.
from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.base import Query


class _Changing(Protocol):
    @property
    def changes(self) -> int: ...


class Memo:
    """Keeps the last [Q, num_items] scores for the very same query object and unchanged tables.

    A cache: it holds nothing that a model needs. Who gets the scores must not write to them.
    """

    def __init__(self, tables: Iterable[_Changing]) -> None:
        self._tables = tuple(tables)
        self._kept: tuple[Query, tuple[int, ...], NDArray[np.float32]] | None = None

    def get(self, query: Query) -> NDArray[np.float32] | None:
        """The scores kept for this query, if nothing changed since."""
        kept = self._kept
        if kept is None or kept[0] is not query or kept[1] != self._changes():
            return None
        return kept[2]

    def keep(self, query: Query, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Keep these scores and give them back."""
        self._kept = (query, self._changes(), scores)
        return scores

    def _changes(self) -> tuple[int, ...]:
        return tuple(table.changes for table in self._tables)
