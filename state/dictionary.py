# The dictionary of a store: item_id ↔ number.
from __future__ import annotations

from state.store import Store, StoreError, Txn


class Dictionary:
    """Numbers 0, 1, 2 … in order of first use, never reused. Whole in memory; safe to read from other threads.

    The writer assigns and flushes; a reader refreshes.
    """

    def __init__(self, store: Store) -> None:
        self._db = store.db("dictionary")
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._num_flushed = 0
        with store.read() as txn:
            self.refresh(txn)

    def __len__(self) -> int:
        return len(self._names)

    def number(self, item_id: str) -> int:
        """The number of an item, assigned here where it has none."""
        number = self._numbers.get(item_id)
        if number is None:
            number = self._numbers[item_id] = len(self._names)
            self._names.append(item_id)
        return number

    def find(self, item_id: str) -> int:
        """The number of an item, -1 where it has none."""
        return self._numbers.get(item_id, -1)

    def name(self, number: int) -> str:
        """The item of a number; IndexError where it was not assigned."""
        if number < 0:
            raise IndexError(f"no item has number {number}")
        return self._names[number]

    def flush(self, txn: Txn) -> None:
        """Write what was assigned since the last flush."""
        new = range(self._num_flushed, len(self._names))
        rows = [(number.to_bytes(4, "big"), self._names[number].encode()) for number in new]
        if txn.cursor(self._db).putmulti(rows, append=True)[1] != len(rows):
            raise StoreError(f"dictionary on disk has numbers from {self._num_flushed} on already: open the store anew")
        self._num_flushed = len(self._names)

    def refresh(self, txn: Txn) -> int:
        """Load what the writer has appended; how many."""
        cursor, before = txn.cursor(self._db), len(self._names)
        if cursor.set_range(before.to_bytes(4, "big")):
            for data in cursor.iternext(keys=False):
                name = data.decode()
                self._names.append(name)  # before its number: who finds the number finds the name
                self._numbers[name] = len(self._names) - 1
        self._num_flushed = len(self._names)
        return len(self._names) - before
