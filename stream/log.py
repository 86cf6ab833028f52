# The embedded event log: an LMDB file that several processes append to; what append returned for is on disk.
from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, NamedTuple

import lmdb

from state import generation
from state.lock import StoreError
from state.store_errors import explained, naming
from stream.source import Message

if TYPE_CHECKING:
    from lmdb import _Database as Database

PARTITION = "events-0"
_OFFSET = struct.Struct(">Q")  # big-endian, so that byte order is number order
_MAX_POLL_BYTES = 16 << 20  # of one poll, however large its messages are
_POLL_SECONDS = 0.002  # an idle reader looks at one page this often; costs about 1 % of a core


@dataclass(frozen=True)
class EventLogConfig:
    """Settings of the embedded log."""

    map_bytes: int = 1 << 36  # address space, not disk; the file grows as it is filled
    max_readers: int = 510


class LogFiles(NamedTuple):
    """The log's LMDB environment as of one compaction."""

    generation: str
    env: lmdb.Environment
    events: Database


def open_files(path: Path, name: str, config: EventLogConfig) -> LogFiles:
    """The files of the log at `path` in the folder of a generation, made where there are none."""
    folder = path / name
    with naming(path):
        if not name:  # a later generation's folder is made by its compaction, and gone with the next one
            folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "lock.mdb").exists():
            _open(folder, config).close()
        generation.allocate_lock_file(folder)
    env = _open(folder, config)
    return LogFiles(name, env, env.open_db(b"events"))


def _open(folder: Path, config: EventLogConfig) -> lmdb.Environment:
    return lmdb.open(str(folder), map_size=config.map_bytes, max_dbs=1, max_readers=config.max_readers)


class EventLog:
    """Values by offset, each with `received_at`, the log's stamp in milliseconds that never goes back.

    A record is key offset (u64 big-endian), value received_at (u64 big-endian) and the bytes given. Any process may
    append; LMDB lets one write at a time. Raises StoreUnwritable naming the path where the disk or the map is full
    (nothing is written then). A log that was compacted is opened anew by itself.
    """

    def __init__(self, path: Path, config: EventLogConfig | None = None) -> None:
        self.path, self.config = path, config or EventLogConfig()
        self._mutex = threading.Lock()
        self._files: LogFiles | None = None
        self.files()

    def files(self) -> LogFiles:
        """Those that are current. Older ones are closed when the last call that uses them has let go of them."""
        files = self._files
        if files is None or files.generation != generation.current(self.path):
            with self._mutex:
                files = self._files
                while files is None or files.generation != generation.current(self.path):
                    self._files = None
                    files = self._files = self._open_current()
        return files

    def _open_current(self) -> LogFiles | None:
        """None where it was compacted meanwhile."""
        name = generation.current(self.path)
        try:
            with self._explaining("opened"):
                return open_files(self.path, name, self.config)
        except StoreError:
            if generation.current(self.path) == name:
                raise
            return None

    @contextmanager
    def _explaining(self, what: str) -> Iterator[None]:
        try:
            yield
        except lmdb.Error as error:
            if isinstance(error, lmdb.PanicError):
                self._files = None  # given up for good by LMDB: the next call opens the files anew
            raise explained(self.path, error, what) from error

    def append(self, values: Sequence[bytes], received_at: int) -> int:
        """Write `values` in one synced transaction; the offset of the first. They are durable once this returns."""
        while True:
            name, env, events = self.files()
            with self._explaining("written"), env.begin(write=True) as txn:
                if generation.current(self.path) != name:
                    continue  # compacted while this call waited for the log
                cursor = txn.cursor(events)
                first = 0
                if cursor.last():
                    first = _OFFSET.unpack(cursor.key())[0] + 1
                    received_at = max(received_at, _OFFSET.unpack_from(cursor.value())[0])
                stamp = _OFFSET.pack(received_at)
                for offset, value in enumerate(values, first):
                    cursor.put(_OFFSET.pack(offset), stamp + value, append=True)
            return first

    def begin_at(self, offset: int) -> None:
        """Have an empty log go on at an offset: it begins with one empty record before it, which nobody reads.

        Raises ValueError where there is something in it.
        """
        _, env, events = self.files()
        with self._explaining("written"), env.begin(write=True) as txn:
            cursor = txn.cursor(events)
            if cursor.first():
                raise ValueError(f"event log {self.path} is not empty: it cannot begin at {offset}")
            if offset:
                cursor.put(_OFFSET.pack(offset - 1), _OFFSET.pack(0))

    def read(self, offset: int, max_messages: int) -> list[Message]:
        """Up to `max_messages` records from `offset` on; fewer, or none, at the end."""
        return self.read_at_commit(offset, max_messages)[0]

    def read_at_commit(self, offset: int, max_messages: int, max_bytes: int | None = None) -> tuple[list[Message], int]:
        """What `read` gives, and the number of the commit it saw. With `max_bytes` it ends with the record that brings
        it there."""
        messages: list[Message] = []
        room = max_bytes if max_bytes is not None else 1 << 62
        name, env, events = self.files()
        with env.begin() as txn:
            cursor = txn.cursor(events)
            if cursor.set_range(_OFFSET.pack(offset)):
                for key, record in islice(cursor, max_messages):
                    received_at = _OFFSET.unpack_from(record)[0]
                    messages.append(Message(PARTITION, _OFFSET.unpack(key)[0], received_at, record[_OFFSET.size :]))
                    room -= len(record)
                    if room <= 0:
                        break
            return messages, _commit_number(name, txn.id())

    def end_offset(self) -> int:
        """The offset the next value will get."""
        _, env, events = self.files()
        with env.begin() as txn:
            cursor = txn.cursor(events)
            return _OFFSET.unpack(cursor.key())[0] + 1 if cursor.last() else 0

    def begin_offset(self) -> int:
        """The oldest offset still held (the end offset when there is none)."""
        _, env, events = self.files()
        with env.begin() as txn:
            cursor = txn.cursor(events)
            return _OFFSET.unpack(cursor.key())[0] if cursor.first() else 0

    def last_commit(self) -> int:
        """The number of the newest commit of any process; cheap to ask. Readers may see it a moment later."""
        name, env, _ = self.files()
        return _commit_number(name, env.info()["last_txnid"])

    def trim(self, before_offset: int, before_received_at: int, max_records: int = 50_000) -> int:
        """Drop records below the offset that were received before the time; how many went. The newest record stays:
        it holds the next offset and the last stamp. At most `max_records` a call, so that writers wait briefly."""
        trimmed = 0
        name, env, events = self.files()
        with self._explaining("trimmed"), env.begin(write=True) as txn:
            if generation.current(self.path) != name:
                return 0  # compacted meanwhile: the next time
            cursor = txn.cursor(events)
            newest = cursor.key() if cursor.last() else b""
            found = cursor.first()
            while found and trimmed < max_records and cursor.key() < min(newest, _OFFSET.pack(before_offset)):
                if _OFFSET.unpack_from(cursor.value())[0] >= before_received_at:
                    break
                found = cursor.delete()
                trimmed += 1
        return trimmed

    def reader_check(self) -> int:
        """Free the slots of readers that died; how many. Their pages could not be reused until then."""
        return int(self.files().env.reader_check())

    def close(self) -> None:
        """Close the file; further calls raise."""
        if self._files is not None:
            self._files.env.close()


def _commit_number(name: str, txn_id: int) -> int:
    """LMDB counts commits anew in the files of a compaction."""
    return (generation.number(name) << 48) + txn_id


class LogSource:
    """The embedded log as an EventSource of one partition."""

    is_outdated = False

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._position = 0
        self._commit = -1  # the one at which the log was read to its end; -1 where it was not

    def identity(self) -> dict[str, str]:
        """Nothing: who has the file has the log."""
        return {}

    def partitions(self) -> list[str]:
        """The one partition."""
        return [PARTITION]

    def seek(self, partition: str, offset: int | None) -> int:
        """Read from `offset` on (None or 0: from the oldest record held). Raises ValueError for another partition, for
        an offset past the end of the log, or for one that was trimmed: events would be lost unseen."""
        if partition != PARTITION:
            raise ValueError(f"the embedded log has no partition {partition!r}, only {PARTITION!r}")
        end = self._log.end_offset()
        offset = offset or 0
        if offset > end:
            raise ValueError(f"offset {offset} is past the end {end} of the event log: is it another log?")
        if 0 < offset < (begin := self._log.begin_offset()):
            raise ValueError(f"offset {offset} was trimmed from the event log, which begins at {begin}")
        self._position = offset
        self._commit = -1
        return offset

    def wait(self, timeout_seconds: float) -> None:
        """Return once there may be messages, or at the timeout: so waiting is no part of a step's time."""
        deadline = monotonic() + timeout_seconds
        while self._log.last_commit() == self._commit and (remaining := deadline - monotonic()) > 0:
            sleep(min(_POLL_SECONDS, remaining))

    def poll(self, max_messages: int, timeout_seconds: float) -> list[Message]:
        """The next messages; waits up to the timeout where there is none."""
        deadline = monotonic() + timeout_seconds
        while True:
            self.wait(deadline - monotonic())
            if self._log.last_commit() == self._commit:
                return []
            messages, self._commit = self._log.read_at_commit(self._position, max_messages, _MAX_POLL_BYTES)
            if messages:
                self._position = messages[-1].offset + 1
                self._commit = -1  # there may be more of it
                return messages

    def end_offsets(self) -> dict[str, int]:
        """Partition to the offset its next message will get."""
        return {PARTITION: self._log.end_offset()}

    def passed(self) -> dict[str, int]:
        """Nothing but what was given."""
        return {}

    def keep(self, offsets: Mapping[str, int]) -> dict[str, int]:  # noqa: ARG002
        """Free the slots of readers that died."""
        self._log.reader_check()
        return self.end_offsets()

    def close(self) -> None:
        """Nothing of its own to close: the log is its owner's."""
