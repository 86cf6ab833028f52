# Users who have been idle for long expire, a few at a time, by events that the fold process writes to the log.
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from state.meta import get_event_time
from state.record import SETS
from state.records import StoredRecords
from state.store import Store, Txn
from stream.writer import Value

_DAY_MS = 24 * 3_600_000


class Expiry:
    """Looks through the users of a fold store, round and round, for those with nothing newer than `ttl_days` before the
    newest event (and before now: one event stamped by a clock that jumped ahead makes nobody idle). What it finds
    becomes `user_expiry` events: the fold stage judges them again where they stand in the log, so that a crash or
    another pace of looking changes no record. 0 days: nobody expires."""

    def __init__(self, store: Store, write: Callable[[Sequence[Value], int], object], ttl_days: int) -> None:
        """`write` takes events and the time, and returns when they are durable."""
        self._store, self._write, self._ttl_ms = store, write, ttl_days * _DAY_MS
        self._set, self._last = 0, b""  # where the last look ended

    def look(self, now_ms: int, max_users: int = 500) -> int:
        """Look at the next users of one set; how many were found idle. At most once for each user and round."""
        if not self._ttl_ms:
            return 0
        with self._store.read() as txn:
            until = min(get_event_time(txn, self._store, "fold"), now_ms) - self._ttl_ms
            records = StoredRecords(self._store, txn)
            idle = [user for user in self._next_users(txn, max_users) if _newest(records, user) <= until]
        if idle and until > 0:
            event = {"type": "user_expiry", "timestamp": until}
            users = [user.decode() for user in idle]
            self._write([Value(msgspec.json.encode({**event, "user_id": user}), user) for user in users], now_ms)
        return len(idle)

    def _next_users(self, txn: Txn, max_users: int) -> Iterator[bytes]:
        cursor = txn.cursor(self._store.db(SETS[self._set]))
        found = cursor.set_range(self._last + b"\0") if self._last else cursor.first()
        for _ in range(max_users):
            if not found:
                self._set, self._last = (self._set + 1) % len(SETS), b""
                return
            self._last = cursor.key()
            yield self._last
            found = cursor.next_nodup()


def _newest(records: StoredRecords, user: bytes) -> int:
    """Event time of the newest row of a user; rows of every set begin with theirs."""
    return max(int.from_bytes(records.edges(user, name)[2][:8], "big") for name in SETS)
