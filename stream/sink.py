# Where events are written to: what a sink has acknowledged is durable.
from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from state.lock import StoreError
from stream.log import EventLog


class EventSink(Protocol):
    """What takes event values (one event or a JSON array of events) and says when they are durable."""

    def append(self, *values: bytes) -> Future[int]:
        """The offset of the first of the values, which follow each other, once all are durable; or the error that kept
        them from being so."""
        ...

    def append_unsynced(self, value: bytes) -> bool:
        """Write soon, with no word about when; False where the value was dropped because too many wait."""
        ...

    def end_offset(self) -> int:
        """The offset that the next value of any process will get."""
        ...

    @property
    def is_alive(self) -> bool:
        """Whether values can still be written; once False, never again."""
        ...

    def close(self) -> None:
        """Write what waits, then stop."""
        ...


class SinkError(Exception):
    """A value was not taken."""


class SinkFull(SinkError):  # noqa: N818 - says what happened
    """More bytes wait to be written than the sink may hold: the caller should try again later."""


class SinkClosed(SinkError):  # noqa: N818
    """The sink takes no more values."""


@dataclass(frozen=True)
class LogSinkConfig:
    """Bounds of the group commit."""

    max_value_bytes: int = 512 * 1024  # so that the delta of one value stays below its own limit
    max_pending_bytes: int = 64 * 1024 * 1024
    max_group_bytes: int = 8 * 1024 * 1024  # one transaction; bounds how long other processes wait for theirs
    unsynced_seconds: float = 0.05  # unsynced values wait so long for an acknowledged one to travel with


class _Piece(NamedTuple):
    """Values that stay together, and who waits for them."""

    values: tuple[bytes, ...]
    num_bytes: int
    future: Future[int] | None


class LogSink:
    """Group commit into the embedded log: one thread writes all that waits in one synced transaction.

    While one group is synced the next one gathers, so the log takes thousands of values for each sync of the disk. A
    group that cannot be written fails every future of it with the log's error; later groups are tried again. `clock`
    gives the milliseconds that a group is stamped with.
    """

    def __init__(self, log: EventLog, clock: Callable[[], int], config: LogSinkConfig | None = None) -> None:
        self._log, self._clock, self._config = log, clock, config or LogSinkConfig()
        self._pending: list[_Piece] = []
        self._pending_bytes = 0
        self._awaited = 0  # pending pieces that somebody waits for
        self._closed = False
        self._changed = threading.Condition()
        self.dropped_total = 0  # unsynced values that found the sink full, or whose group failed
        self._thread = threading.Thread(target=self._run, name="log-sink", daemon=True)
        self._thread.start()

    def append(self, *values: bytes) -> Future[int]:
        """The offset of the first of the values, which follow each other in the log, once all are on disk: all of them
        or none. Raises SinkFull, SinkClosed, or ValueError for a value over `max_value_bytes`."""
        future: Future[int] = Future()
        with self._changed:
            self._add(values, future)
            self._awaited += 1
            self._changed.notify()
        return future

    def append_unsynced(self, value: bytes) -> bool:
        """Write with the next group; False where the sink is full. Raises as `append` does otherwise."""
        with self._changed:
            try:
                self._add((value,), None)
            except SinkFull:
                self.dropped_total += 1
                return False
            self._changed.notify()
        return True

    def end_offset(self) -> int:
        """The offset that the next value of any process will get."""
        return self._log.end_offset()

    @property
    def is_alive(self) -> bool:
        """Whether the thread that writes is there."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Write all that waits, then stop the thread. Further appends raise SinkClosed."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _add(self, values: tuple[bytes, ...], future: Future[int] | None) -> None:
        if self._closed:
            raise SinkClosed("the event sink is closed")
        sizes = [len(value) for value in values]
        if (largest := max(sizes)) > self._config.max_value_bytes:
            raise ValueError(f"a value of {largest} bytes; at most {self._config.max_value_bytes} are allowed")
        size = sum(sizes)
        if self._pending_bytes + size > self._config.max_pending_bytes:
            raise SinkFull(f"{self._pending_bytes} bytes of events wait to be written")
        self._pending.append(_Piece(values, size, future))
        self._pending_bytes += size

    def _run(self) -> None:
        group: list[_Piece] = []
        try:
            while group := self._next_group():
                self._write(group)
        finally:  # whatever stopped the thread, nobody waits for ever
            with self._changed:
                self._closed = True
                left, self._pending = group + self._pending, []
            for piece in left:
                future = piece.future
                if future and not future.done() and (future.running() or future.set_running_or_notify_cancel()):
                    future.set_exception(SinkClosed("the event sink stopped before the value was written"))

    def _next_group(self) -> list[_Piece]:
        """Wait for pieces; those of one transaction. Empty when the sink is closed and all is written."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closed)
            # Nobody waits for unsynced values, so they may wait for company.
            self._changed.wait_for(lambda: self._awaited or self._closed, self._config.unsynced_seconds)
            size = count = 0
            while count < len(self._pending) and size < self._config.max_group_bytes:
                size += self._pending[count].num_bytes
                count += 1
            group, self._pending = self._pending[:count], self._pending[count:]
            self._pending_bytes -= size
            self._awaited -= sum(piece.future is not None for piece in group)
        return group

    def _write(self, group: list[_Piece]) -> None:
        # A future cancelled from here on would refuse its result; one cancelled before is written all the same.
        waiting = [piece.future is not None and piece.future.set_running_or_notify_cancel() for piece in group]
        error: Exception | None = None
        offset = 0
        try:
            offset = self._log.append([value for piece in group for value in piece.values], self._clock())
        except (StoreError, OSError) as failure:
            error = failure
            self.dropped_total += sum(piece.future is None for piece in group)
        for piece, is_waiting in zip(group, waiting, strict=True):
            if piece.future is not None and is_waiting:
                if error is None:
                    piece.future.set_result(offset)
                else:
                    piece.future.set_exception(error)
            offset += len(piece.values)


def pack_values(events: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """JSON arrays of the encoded events, in order, each at most `max_bytes` where its events allow."""
    packed: list[bytes] = []
    size = 1
    for event in events:
        if packed and size + len(event) + 1 > max_bytes:
            yield b"[" + b",".join(packed) + b"]"
            packed, size = [], 1
        packed.append(event)
        size += len(event) + 1
    if packed:
        yield b"[" + b",".join(packed) + b"]"
