# Dead letters: what could not be decoded or broke a rule, kept with its reason for a while.
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from state.store import Store, Txn
from stream.event import Rejected
from stream.source import Message

_DATABASE = "dead_letters"
_MAX_KEY_BYTES = 1_024  # four times what an id may have
_MAX_HEADER_BYTES = 4_096  # of all headers together

Header = tuple[str, bytes | None]


class DeadLetter(msgspec.Struct, frozen=True):
    """A rejected event and where in the log it was found."""

    partition: str
    offset: int
    index: int  # in the array of the value
    field: str  # empty where no single field is to blame
    reason: str
    raw: bytes
    received_at: int  # the log's stamp, milliseconds
    key: bytes | None = None  # the message's
    headers: tuple[Header, ...] = ()
    is_cut: bool = False  # too large to be kept whole: the event or the key is its begin, or the headers are left out

    @property
    def identity(self) -> str:
        """PARTITION-OFFSET-INDEX: one event has one, however often it is read."""
        return f"{self.partition}-{self.offset}-{self.index}"


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
        """Add letters, and drop the oldest that are past retention (by the new ones' stamp) or one too many. A letter
        without a stamp goes with the next one that has one."""
        if not letters:
            return
        cursor = txn.cursor(self._db)
        following = int.from_bytes(cursor.key(), "big") + 1 if cursor.last() else 0
        for number, letter in enumerate(letters, following):
            cursor.put(number.to_bytes(8, "big"), msgspec.msgpack.encode(letter), append=True)
        keep_from = following + len(letters) - self._config.max_letters
        keep_after_ms = letters[-1].received_at - self._config.retention_ms
        found = cursor.first()
        while found and (received_at := _letter(cursor.value()).received_at) < keep_after_ms:
            if received_at:
                keep_from = max(keep_from, int.from_bytes(cursor.key(), "big") + 1)
            found = cursor.next()
        while cursor.first() and int.from_bytes(cursor.key(), "big") < keep_from:
            cursor.delete()


def to_letter(message: Message, rejected: Rejected) -> DeadLetter:
    """What is kept of a message's rejected event."""
    key, headers = message.key, tuple(message.headers)
    is_cut = rejected.is_cut
    if key is not None and len(key) > _MAX_KEY_BYTES:
        key, is_cut = key[:_MAX_KEY_BYTES], True
    if sum(len(name.encode()) + len(value or b"") for name, value in headers) > _MAX_HEADER_BYTES:
        headers, is_cut = (), True
    place = (message.partition, message.offset, rejected.index)
    why = (rejected.field, rejected.reason, rejected.raw)
    return DeadLetter(*place, *why, message.received_at, key, headers, is_cut)


def read_dead_letters(txn: Txn, store: Store) -> Iterator[DeadLetter]:
    """All that are kept, newest first; the transaction stays open meanwhile."""
    database = store.find(_DATABASE)
    if database is not None:
        for data in txn.cursor(database).iterprev(keys=False):
            yield _letter(data)


def dead_letters_from(txn: Txn, store: Store, number: int = 0) -> Iterator[tuple[int, DeadLetter]]:
    """Those kept from a number on, oldest first, each with its number; the transaction stays open meanwhile."""
    database = store.find(_DATABASE)
    if database is not None:
        cursor = txn.cursor(database)
        found = cursor.set_range(number.to_bytes(8, "big"))
        while found:
            yield int.from_bytes(cursor.key(), "big"), _letter(cursor.value())
            found = cursor.next()


def _letter(data: bytes) -> DeadLetter:
    return msgspec.msgpack.decode(data, type=DeadLetter)
