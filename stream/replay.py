# Replay: examples drawn from stored records, so that gradient models do not forget what is no longer in the stream.
from __future__ import annotations

import numpy as np
from xxhash import xxh64_digest

from state.entry import SIGNAL_OFFSET
from state.records import read_record
from state.signals import SignalTable
from state.store import Store, Txn
from stream.examples import Example

_DATABASE = "users_by_hash"


class Replay:
    """Users by the hash of their id, which makes a drawn number find a user; and examples of drawn users.

    The users lie in a database of the learner's store, so memory does not grow with their number.
    """

    def __init__(self, store: Store, signals: SignalTable, max_entries: int) -> None:
        self._store, self._db = store, store.db(_DATABASE, dupsort=True)
        self._max_entries = max_entries
        self._learned = {code for code, signal in signals.by_code.items() if signal.weight > 0}
        self._changed: dict[bytes, bool] = {}  # user → whether there is a record, since the last flush

    def add(self, user: bytes) -> None:
        """A user has a record now."""
        self._changed[user] = True

    def forget(self, user: bytes) -> None:
        """A user has no record any more."""
        self._changed[user] = False

    def flush(self, txn: Txn) -> None:
        """Write what changed."""
        cursor = txn.cursor(self._db)
        for key, user, is_there in sorted((xxh64_digest(user), user, there) for user, there in self._changed.items()):
            if is_there:
                cursor.put(key, user, dupdata=False)
            elif cursor.set_key_dup(key, user):
                cursor.delete()
        self._changed.clear()

    def draw(self, txn: Txn, rng: np.random.Generator, num_examples: int) -> list[Example]:
        """Up to `num_examples` examples: a drawn user each, and a drawn entry with at least one before it.

        Records are those of the transaction. Users who have none to give are left out.
        """
        cursor, drawn = txn.cursor(self._db), []
        places = rng.random(num_examples)
        for key, place in zip(_keys(rng, num_examples), places, strict=True):
            if not (cursor.set_range(key) or cursor.first()):
                break
            user = cursor.value()
            rows = read_record(txn, self._store, user).sequence.rows
            chosen = 1 + int(place * (len(rows) - 1))
            if chosen < len(rows) and rows[chosen][SIGNAL_OFFSET] in self._learned:
                drawn.append(Example(rows[chosen], rows[max(0, chosen - self._max_entries) : chosen], user))
        return drawn

    def walk(self, txn: Txn, after: bytes, num_examples: int) -> tuple[list[Example], bytes | None]:
        """All examples of the users behind a place, user by user, each in event order.

        Ends with the user who brings them to `num_examples`; gives the place behind that one, None behind the last.
        The first place is empty.
        """
        cursor, examples = txn.cursor(self._db), []
        found = cursor.set_range(after[:8])
        while found:
            key, user = cursor.item()
            if key + user > after:
                rows = read_record(txn, self._store, user).sequence.rows
                for place, row in enumerate(rows):
                    if row[SIGNAL_OFFSET] in self._learned:
                        examples.append(Example(row, rows[max(0, place - self._max_entries) : place], user))
                after = key + user
                if len(examples) >= num_examples:
                    return examples, after
            found = cursor.next()
        return examples, None


def place_of(user: bytes) -> bytes:
    """Where `walk` comes to a user."""
    return xxh64_digest(user) + user


def _keys(rng: np.random.Generator, num_keys: int) -> list[bytes]:
    data = rng.bytes(8 * num_keys)
    return [data[start : start + 8] for start in range(0, len(data), 8)]
