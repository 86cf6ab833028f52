# The catalogue: what is known of each item, newest timestamp wins.
from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from state.dictionary import Dictionary
from state.store import Store, Txn

Feature = str | int | float | bool


class CatalogueItem(msgspec.Struct, omit_defaults=True):
    """An item as upserted, or (deleted) the tombstone that keeps older upserts out."""

    item_id: str
    timestamp: int  # of the upsert or delete, milliseconds
    title: str = ""
    categories: list[str] = []
    tags: list[str] = []
    published_at: int = 0  # milliseconds, 0 unknown
    duration_ms: int = 0  # 0 unknown
    available: bool = True
    features: dict[str, Feature] = {}
    embedding: list[float] = []
    deleted: bool = False


class Catalogue:
    """The catalogue of a store, for its writer: keyed by the dictionary's numbers, read from disk where needed."""

    def __init__(self, store: Store, dictionary: Dictionary) -> None:
        self._store, self._dictionary = store, dictionary
        self._pending: dict[int, CatalogueItem] = {}
        self._first_seen = np.zeros(0, np.int64)  # by number; 0 never
        self._newly_seen: set[int] = set()
        with store.read() as txn:
            self._seen(*read_first_seen(txn, store))

    def upsert(self, item: CatalogueItem) -> bool:
        """Take an upsert or a tombstone; False where what is there is as new (ties: the greater bytes stay)."""
        before = self.get(item.item_id)
        if before is not None and not wins(item, before):
            return False
        self._pending[self._dictionary.number(item.item_id)] = item
        return True

    def delete(self, item_id: str, timestamp: int) -> bool:
        """Leave a tombstone; False where something newer is there."""
        return self.upsert(CatalogueItem(item_id, timestamp, deleted=True))

    def get(self, item_id: str) -> CatalogueItem | None:
        """What is known of an item, also a tombstone; None where it was never upserted."""
        number = self._dictionary.find(item_id)
        if number in self._pending:
            return self._pending[number]
        with self._store.read() as txn:
            return read_item(txn, self._store, number)

    def saw(self, numbers: NDArray[np.integer], timestamps: NDArray[np.integer]) -> None:
        """Note events of items at event times (milliseconds), so that each item's first is known."""
        if len(numbers):
            self._newly_seen.update(self._seen(numbers.astype(np.int64), timestamps.astype(np.int64)).tolist())

    def flush(self, txn: Txn) -> None:
        """Write what changed since the last flush."""
        write_items(txn, self._store, self._pending)
        write_first_seen(txn, self._store, {number: int(self._first_seen[number]) for number in self._newly_seen})
        self._pending.clear()
        self._newly_seen.clear()

    def _seen(self, numbers: NDArray[np.int64], timestamps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Lower the first times; the numbers whose time changed."""
        self._first_seen, changed = lowered(self._first_seen, numbers, timestamps)
        return changed


def lowered(
    first_seen: NDArray[np.int64], numbers: NDArray[np.int64], timestamps: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`first_seen` by number (0 never) with these sightings taken in, grown where needed, and the numbers changed."""
    size = int(numbers.max(initial=-1)) + 1
    if size > len(first_seen):
        first_seen = np.concatenate(
            [first_seen, np.zeros(max(size, 1024, 2 * len(first_seen)) - len(first_seen), np.int64)]
        )
    known = first_seen[numbers]
    is_earlier = (known == 0) | (timestamps < known)
    numbers, timestamps = numbers[is_earlier], timestamps[is_earlier]  # few or none, mostly
    if len(numbers) == 0:
        return first_seen, numbers
    unique, inverse = np.unique(numbers, return_inverse=True)
    least = np.full(len(unique), np.iinfo(np.int64).max)
    np.minimum.at(least, inverse, timestamps)
    first_seen[unique] = least
    return first_seen, unique


def read_item(txn: Txn, store: Store, number: int) -> CatalogueItem | None:
    """What is known of the item of a number, also a tombstone; None where there is nothing."""
    data = txn.get(number.to_bytes(4, "big"), db=store.db("catalogue")) if number >= 0 else None
    return None if data is None else msgspec.msgpack.decode(data, type=CatalogueItem)


def read_items(txn: Txn, store: Store) -> dict[int, CatalogueItem]:
    """All items upserted or deleted, by number."""
    decode = msgspec.msgpack.Decoder(CatalogueItem).decode
    return {int.from_bytes(key, "big"): decode(data) for key, data in txn.cursor(store.db("catalogue"))}


def write_items(txn: Txn, store: Store, items: Mapping[int, CatalogueItem]) -> None:
    """Write items by number, in place of those there were."""
    for number, item in sorted(items.items()):
        txn.put(number.to_bytes(4, "big"), msgspec.msgpack.encode(item), db=store.db("catalogue"))


def write_first_seen(txn: Txn, store: Store, first_seen: Mapping[int, int]) -> None:
    """Write by number the event time of an item's first event, milliseconds."""
    for number, at in sorted(first_seen.items()):
        txn.put(number.to_bytes(4, "big"), at.to_bytes(8, "big"), db=store.db("first_seen"))


def read_first_seen(txn: Txn, store: Store) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of items that events named, and the event time of each one's first, milliseconds."""
    data = b"".join(key + value for key, value in txn.cursor(store.db("first_seen")))
    rows = np.frombuffer(data, np.dtype([("number", ">u4"), ("at", ">u8")]))
    return rows["number"].astype(np.int64), rows["at"].astype(np.int64)


def wins(item: CatalogueItem, before: CatalogueItem) -> bool:
    """Whether an upsert or tombstone stands, and not the one there was: the later one, of two the greater bytes."""
    return _rank(item) > _rank(before)


def _rank(item: CatalogueItem) -> tuple[int, bytes]:
    return item.timestamp, msgspec.msgpack.encode(item)
