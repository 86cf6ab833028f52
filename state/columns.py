# The catalogue as columns by item number, from which a server makes its masks.
from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh64_intdigest

from state.catalogue import CatalogueItem, Feature, lowered, read_first_seen, read_items
from state.dictionary import Dictionary
from state.store import Store, Txn

_Scalar = TypeVar("_Scalar", bound=np.generic)
_NO_CATEGORIES: frozenset[int] = frozenset()
_NO_FEATURES: Mapping[str, Feature] = {}


class CatalogueColumns:
    """Columns of at least `size` places, one an item number of the fold store; those beyond `size` mean nothing.

    An item that only events named is available and not upserted. `category_codes` gives categories numbers; several
    columns of one process share it. `order` is what equal items are ordered by: numbers are each store's own, item_ids
    are the same on every machine.
    """

    def __init__(self, category_codes: dict[str, int]) -> None:
        self.size = 0
        self.category_codes = category_codes
        self.available = np.zeros(0, np.bool_)
        self.upserted = np.zeros(0, np.bool_)
        self.deleted = np.zeros(0, np.bool_)
        self.published_at = np.zeros(0, np.int64)  # milliseconds, 0 unknown
        self.first_seen = np.zeros(0, np.int64)  # event time of the first entry, milliseconds, 0 never
        self.categories: list[frozenset[int]] = []
        self.features: list[Mapping[str, Feature]] = []
        self.order = np.zeros(0, np.uint64)  # xxh64 of the item_id
        self._num_identified = 0
        self._newest: dict[int, NDArray[np.int64]] = {}  # by k

    def load(self, txn: Txn, store: Store) -> None:
        """Take over all that a store holds."""
        for number, item in read_items(txn, store).items():
            self.apply(number, item)
        self.saw(*read_first_seen(txn, store))

    def grow(self, size: int) -> None:
        """Make places up to `size`."""
        if size > len(self.available):
            capacity = max(size, 1024, 2 * len(self.available))
            self.available = _extended(self.available, capacity, True)
            self.upserted = _extended(self.upserted, capacity, False)
            self.deleted = _extended(self.deleted, capacity, False)
            self.published_at = _extended(self.published_at, capacity, 0)
            self.order = _extended(self.order, capacity, 0)
            self.categories += [_NO_CATEGORIES] * (capacity - len(self.categories))
            self.features += [_NO_FEATURES] * (capacity - len(self.features))
        if size > len(self.first_seen):
            self.first_seen = _extended(self.first_seen, len(self.available), 0)
        if size > self.size:
            self.size = size
            self._newest.clear()

    def identify(self, dictionary: Dictionary) -> None:
        """Take the item_ids of the items up to `size` that were not taken yet."""
        new = range(self._num_identified, self.size)
        self.order[new.start : new.stop] = np.fromiter(
            (xxh64_intdigest(dictionary.name(k).encode()) for k in new), np.uint64
        )
        self._num_identified = self.size

    def apply(self, number: int, item: CatalogueItem) -> None:
        """Take an upsert or a tombstone of an item."""
        self.grow(number + 1)
        codes = self.category_codes
        self.available[number] = item.available and not item.deleted
        self.upserted[number], self.deleted[number] = not item.deleted, item.deleted
        self.published_at[number] = item.published_at
        self.categories[number] = frozenset(codes.setdefault(name, len(codes)) for name in item.categories)
        self.features[number] = item.features
        self._newest.clear()

    def saw(self, numbers: NDArray[np.int64], timestamps: NDArray[np.int64]) -> None:
        """Take event times of items; each keeps its first."""
        self.grow(int(numbers.max(initial=-1)) + 1)
        self.first_seen, changed = lowered(self.first_seen, numbers, timestamps)
        if len(changed):
            self._newest.clear()

    def born_at(self, items: NDArray[np.int64] | slice) -> NDArray[np.int64]:
        """[M] when each item was published, or first seen where that is unknown, milliseconds; 0 unknown."""
        published_at = self.published_at[items]
        return np.where(published_at > 0, published_at, self.first_seen[items])

    def newest(self, k: int) -> NDArray[np.int64]:
        """[min(k, size)] items born last, newest first, equal ones by `order`; kept until a time changes: do not write
        to it."""
        if k not in self._newest:
            born_at, order = self.born_at(slice(self.size)), self.order[: self.size]
            num = min(k, self.size)
            least = np.partition(born_at, self.size - num)[self.size - num] if num else 0
            places = np.flatnonzero(born_at >= least)
            self._newest[k] = places[np.lexsort((order[places], -born_at[places]))][:num]
        return self._newest[k]


def _extended(array: NDArray[_Scalar], capacity: int, fill: int | bool) -> NDArray[_Scalar]:
    grown = np.full(capacity, fill, array.dtype)
    grown[: len(array)] = array
    return grown
