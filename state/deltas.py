# The deltas log of a store: every version's bytes, in messages that fit any broker.
from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import zstandard

from state.delta import Cells, Delta, ModelDelta, Rows, UserRows
from state.store import Stage, Store, Txn
from state.wire import FORMAT, DeltaError, decode, encode

__all__ = ["Cells", "Delta", "DeltaError", "DeltaGap", "DeltaLog", "ModelDelta", "Rows", "UserRows"]
__all__ += ["MAX_MESSAGE_BYTES", "decode", "encode", "join", "split"]

MAX_MESSAGE_BYTES = 900_000
_PART_BYTES = MAX_MESSAGE_BYTES - 1000  # leaves room for the message around a part


class DeltaGap(Exception):  # noqa: N818  named for what is so
    """The log no longer reaches back to the version asked for: start from a snapshot, or load the tables whole."""


class _Chunk(msgspec.Struct):
    stage: str
    version: int
    chunk: tuple[int, int]  # k of how many, from 0
    part: bytes


def split(stage: str, version: int, data: bytes) -> list[bytes]:
    """A delta's bytes as messages of at most MAX_MESSAGE_BYTES: itself, or numbered chunks to be applied together."""
    if len(data) <= MAX_MESSAGE_BYTES:
        return [data]
    parts = [data[start : start + _PART_BYTES] for start in range(0, len(data), _PART_BYTES)]
    compress = zstandard.ZstdCompressor(1).compress
    chunks = (_Chunk(stage, version, (k, len(parts)), part) for k, part in enumerate(parts))
    return [bytes([FORMAT]) + compress(msgspec.msgpack.encode(chunk)) for chunk in chunks]


def join(messages: Sequence[bytes]) -> bytes:
    """The delta's bytes of what `split` made of them, all messages of one version in their order."""
    if len(messages) == 1:
        return messages[0]
    decompress = zstandard.ZstdDecompressor().decompress
    chunks = [msgspec.msgpack.decode(decompress(message[1:]), type=_Chunk) for message in messages]
    if [chunk.chunk for chunk in chunks] != [(k, len(chunks)) for k in range(len(chunks))]:
        raise DeltaError(f"{chunks[0].stage} delta {chunks[0].version} is not complete")
    return b"".join(chunk.part for chunk in chunks)


class DeltaLog:
    """The deltas of one stage in a store: the stage's own, or in a follower's store those it folded.

    A key is version (8 bytes) and chunk (2 bytes), a value appended_at (8 bytes, milliseconds) and the message.
    """

    def __init__(self, store: Store, stage: Stage | None = None) -> None:
        self._db = store.db(f"deltas:{stage or store.stage}")
        self._stage, self._path = stage or store.stage, store.path

    def append(self, txn: Txn, version: int, data: bytes, appended_at: int) -> None:
        """Add the next version's bytes; ValueError unless its number is greater than the last."""
        if version <= self.last(txn):
            raise ValueError(f"{self._path}: {self._stage} delta {version} after {self.last(txn)}: versions only grow")
        for k, message in enumerate(split(self._stage, version, data)):
            txn.put(_key(version, k), appended_at.to_bytes(8, "big") + message, append=True, db=self._db)

    def read(self, txn: Txn, after_version: int, limit: int | None = None) -> Iterator[tuple[int, bytes]]:
        """(version, bytes) of up to `limit` versions after `after_version`, in order.

        Raises DeltaGap where versions between it and the first that is left were trimmed.
        """
        first = self.first(txn)
        if first > after_version + 1:
            raise DeltaGap(f"{self._path}: {self._stage} deltas start at {first}, {after_version + 1} is needed")
        cursor, num_read = txn.cursor(self._db), 0
        found = cursor.set_range(_key(after_version + 1))
        while found and (limit is None or num_read < limit):
            version, messages = _version(cursor.key()), []
            while found and _version(cursor.key()) == version:
                messages.append(cursor.value()[8:])
                found = cursor.next()
            yield version, join(messages)
            num_read += 1

    def stamps(self, txn: Txn, after_version: int, limit: int) -> list[int]:
        """When each of up to `limit` versions after `after_version` was appended, in order; milliseconds."""
        cursor, stamps = txn.cursor(self._db), list[int]()
        found = cursor.set_range(_key(after_version + 1))
        while found and len(stamps) < limit:
            stamps.append(int.from_bytes(cursor.value()[:8], "big"))
            found = cursor.set_range(_key(_version(cursor.key()) + 1))
        return stamps

    def first(self, txn: Txn) -> int:
        """The oldest version that is left, 0 in an empty log."""
        cursor = txn.cursor(self._db)
        return _version(cursor.key()) if cursor.first() else 0

    def last(self, txn: Txn) -> int:
        """The newest version, 0 in an empty log."""
        cursor = txn.cursor(self._db)
        return _version(cursor.key()) if cursor.last() else 0

    def trim(self, txn: Txn, keep_after_ms: int, keep_after_version: int, limit: int = 1000) -> int:
        """Drop up to `limit` versions up to `keep_after_version` that were appended before `keep_after_ms`; how many.

        The newest version always stays: it tells followers where the log stands.
        """
        cursor, last, num_dropped = txn.cursor(self._db), self.last(txn), 0
        while num_dropped < limit and cursor.first():
            version, appended_at = _version(cursor.key()), int.from_bytes(cursor.value()[:8], "big")
            if version == last or version > keep_after_version or appended_at >= keep_after_ms:
                break
            while cursor.first() and _version(cursor.key()) == version:
                cursor.delete()
            num_dropped += 1
        return num_dropped


def _key(version: int, chunk: int = 0) -> bytes:
    return version.to_bytes(8, "big") + chunk.to_bytes(2, "big")


def _version(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")
