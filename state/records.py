# User records on disk and in a bounded cache: an event rewrites about one page.
from __future__ import annotations

from itertools import islice

import lmdb

from state.record import ROW_BYTES, SETS, BoundedSet, RecordLimits, UserRecord
from state.store import Store, StoreError, Txn


class Records:
    """The user records of a store, for its writer.

    Sets are read at first need, through a least-recently-used cache of `cache_users` records. What was changed stays
    in memory until `flush` has written it: between two flushes the cache may hold more. The cache is never durable:
    a stage that restarts drops this object, and nothing else is lost. `flush` stands last before the commit.
    """

    def __init__(self, store: Store, limits: RecordLimits | None = None, cache_users: int = 20_000) -> None:
        self._store, self._limits, self._cache_users = store, limits or RecordLimits(), cache_users
        self._used: dict[bytes, UserRecord] = {}  # since the last flush
        self._idle: dict[bytes, UserRecord] = {}  # the others, least recently used first
        self._forgotten: dict[bytes, int] = {}  # since the last flush
        self._disk = StoredRecords(store)  # begins to read at the first miss after a flush

    def get(self, user: bytes) -> UserRecord:
        """The record of a user, an empty one where there is none. Fold into it, then `flush`."""
        record = self._used.get(user)
        if record is None:
            record = self._idle.pop(user, None)
            if record is None:
                record = UserRecord(self._limits, self._disk, user, self._disk.forgotten_at(user))
            self._used[user] = record
        return record

    def forget(self, user: bytes, received_at: int) -> None:
        """Delete all rows of a user, and have `received_at` stand as the time up to which nothing counts."""
        received_at = max(received_at, self.get(user).forgotten_at)
        self._used[user] = UserRecord(self._limits, forgotten_at=received_at)
        self._forgotten[user] = received_at

    def flush(self, txn: Txn) -> None:
        """Write the rows added and removed since the last flush, sorted by set, user and row (4x faster in LMDB)."""
        self._disk.close()
        for user, received_at in sorted(self._forgotten.items()):
            for name in SETS:
                txn.delete(user, db=self._store.db(name))
            if received_at:  # 0: the user expired, and nothing stays out
                txn.put(user, received_at.to_bytes(8, "big"), db=self._store.db("tombstones"))
        changed: dict[str, list[tuple[bytes, BoundedSet]]] = {name: [] for name in SETS}
        for user, record in self._used.items():
            for name, rows in record.changed():
                changed[name].append((user, rows))
        for name in SETS:
            _flush_set(txn.cursor(self._store.db(name)), changed[name])
        for user in self._forgotten:  # such a record knows nothing of the disk that its rows are on from now on
            self._used.pop(user, None)
        self._forgotten.clear()
        self._idle |= self._used
        self._used = {}
        for user in list(islice(self._idle, max(0, len(self._idle) - self._cache_users))):
            del self._idle[user]


def _flush_set(cursor: lmdb.Cursor[bytes], changed: list[tuple[bytes, BoundedSet]]) -> None:
    """Write one set of all users that changed it."""
    added: list[tuple[bytes, bytes]] = []
    removed: list[tuple[bytes, bytes]] = []
    for user, rows in changed:
        for row, is_added in rows.changes.items():
            (added if is_added else removed).append((user, row))
        rows.flushed()
    cursor.putmulti(sorted(added))
    for user, row in sorted(removed):
        if not cursor.set_key_dup(user, row):
            raise StoreError(f"a record of user {user!r} on disk lacks a row that was read from it")
        cursor.delete()
    for user, rows in changed:
        if not rows.is_counted and cursor.set_key(user):  # rows came unseen: what is too much shows now
            for _ in range(cursor.count() - rows.limit):
                cursor.delete()


class StoredRecords:
    """The records on disk as of a read transaction: the one given, or its own from the first need until `close`."""

    def __init__(self, store: Store, txn: Txn | None = None) -> None:
        self._store, self._txn, self._is_given = store, txn, txn is not None
        self._cursors: dict[str, lmdb.Cursor[bytes]] = {}

    def close(self) -> None:
        """End the transaction that was begun here; the next need begins another."""
        if self._txn is not None and not self._is_given:
            self._cursors.clear()
            self._store.end_read(self._txn)
            self._txn = None

    def forgotten_at(self, user: bytes) -> int:
        """The log's stamp of the last deletion of a user, 0 where there was none."""
        return int.from_bytes(self._cursor("tombstones").get(user, b""), "big")

    def rows(self, user: bytes, name: str) -> list[bytes]:
        """As Disk says."""
        cursor = self._cursor(name)
        if not cursor.set_key(user):
            return []
        pairs: list[tuple[bytes, bytes]]
        if (fixed := ROW_BYTES.get(name)) is not None:  # rows of one length lie side by side: 3 times as fast
            pairs = cursor.getmulti((user,), dupdata=True, dupfixed_bytes=fixed)
            return [row for _, row in pairs]
        return list(cursor.iternext_dup())

    def edges(self, user: bytes, name: str) -> tuple[int, bytes, bytes]:
        """As Disk says."""
        cursor = self._cursor(name)
        if not cursor.set_key(user):
            return 0, b"", b""
        num_rows, least = cursor.count(), cursor.value()
        cursor.last_dup()
        return num_rows, least, cursor.value()

    def _cursor(self, name: str) -> lmdb.Cursor[bytes]:
        cursor = self._cursors.get(name)
        if cursor is None:
            if self._txn is None:
                self._txn = self._store.begin_read()
            cursor = self._cursors[name] = self._txn.cursor(self._store.db(name))
        return cursor


def read_record(txn: Txn, store: Store, user: bytes, limits: RecordLimits | None = None) -> UserRecord:
    """The record of a user as of the transaction, for readers; its sets are loaded while that is open."""
    stored = StoredRecords(store, txn)
    return UserRecord(limits or RecordLimits(), stored, user, stored.forgotten_at(user))
