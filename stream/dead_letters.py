# Dead letters: what could not be decoded or broke a rule, kept with its reason for a while.
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from state.store import Store, Txn

_DATABASE = "dead_letters"


class DeadLetter(msgspec.Struct, frozen=True):
    """A rejected event and where in the log it was found."""

    partition: str
    offset: int
    index: int  # in the array of the value
    field: str  # empty where no single field is to blame
    reason: str
    raw: bytes
    received_at: int  # the log's stamp, milliseconds


@dataclass(frozen=True)
class DeadLetterConfig:
    """How long and how many are kept."""

    retention_ms: int = 7 * 24 * 3_600_000
    max_letters: int = 10_000


class DeadLetters:
    """The dead letters of a fold store, by a number that only grows."""

    def __init__(self, store: Store, config: DeadLetterConfig) -> None:
        self._db, self._config = store.db(_DATABASE), config

    def append(self, txn: Txn, letters: Sequence[DeadLetter]) -> None:
        """Add letters, and drop the oldest that are past retention (by the new ones' stamp) or one too many."""
        if not letters:
            return
        cursor = txn.cursor(self._db)
        following = int.from_bytes(cursor.key(), "big") + 1 if cursor.last() else 0
        for number, letter in enumerate(letters, following):
            cursor.put(number.to_bytes(8, "big"), msgspec.msgpack.encode(letter), append=True)
        keep_from = following + len(letters) - self._config.max_letters
        keep_after_ms = letters[-1].received_at - self._config.retention_ms
        while cursor.first() and (
            int.from_bytes(cursor.key(), "big") < keep_from or _letter(cursor.value()).received_at < keep_after_ms
        ):
            cursor.delete()


def read_dead_letters(txn: Txn, store: Store) -> Iterator[DeadLetter]:
    """All that are kept, newest first; the transaction stays open meanwhile."""
    database = store.find(_DATABASE)
    if database is not None:
        for data in txn.cursor(database).iterprev(keys=False):
            yield _letter(data)


def _letter(data: bytes) -> DeadLetter:
    return msgspec.msgpack.decode(data, type=DeadLetter)
