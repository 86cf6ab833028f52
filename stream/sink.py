# Where events are written to: what a sink has acknowledged is durable.
from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

from stream.log import EventLog
from stream.log_writer import Frames, Piece, WriterSettings, Written, framed, start_writer

_CHUNK_BYTES = 1 << 16
_CLOSE_SECONDS = 30.0
_LOG = logging.getLogger("runnel.stream")


class EventSink(Protocol):
    """What takes event values (one event or a JSON array of events) and says when they are durable."""

    async def append(self, *values: bytes) -> int:
        """The offset of the first of the values, which follow each other, once all are durable. Raises SinkError, or
        ValueError for a value that is too large."""
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


class NotWritten(SinkError):  # noqa: N818
    """The log could not take the group: nothing of it was written."""


@dataclass(frozen=True)
class LogSinkConfig:
    """Bounds of the group commit."""

    max_value_bytes: int = 512 * 1024  # so that the delta of one value stays below its own limit
    max_pending_bytes: int = 64 * 1024 * 1024
    max_group_bytes: int = 8 * 1024 * 1024  # one transaction; bounds how long other processes wait for theirs
    unsynced_seconds: float = 0.05  # unsynced values wait so long for an acknowledged one to travel with


class _Awaited(NamedTuple):
    """A piece that somebody waits for."""

    num_bytes: int
    future: asyncio.Future[int]


class LogSink:
    """Group commit into the embedded log, by a process of its own (`stream.log_writer`).

    While one group is synced the next one gathers, so the log takes thousands of values for each sync of the disk. A
    group that cannot be written fails every call of it with the log's error; later groups are tried again. `clock`
    gives the milliseconds that a value is stamped with; `on_lost` is told of unsynced values whose group could not be
    written. `append` is for one event loop at a time, the rest for any thread. Where the process ends, who waits is
    told so and another is started; one that ends before it has answered at all closes the sink.
    """

    def __init__(
        self,
        log: EventLog,
        clock: Callable[[], int],
        config: LogSinkConfig | None = None,
        on_lost: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._log, self._clock, self._config, self._on_lost = log, clock, config or LogSinkConfig(), on_lost
        self._mutex = threading.Lock()  # of what waits to be sent
        self._outgoing = bytearray()
        self._awaited: deque[_Awaited] = deque()  # in the order in which they are answered
        self._awaited_bytes = 0
        self._decoder = msgspec.msgpack.Decoder(Written)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_sending = False  # a turn of the loop that sends is to come
        self._is_blocked = False  # the socket is full: the loop says when there is room
        self._closed = False
        self._start()

    async def append(self, *values: bytes) -> int:
        """The offset of the first of the values, which follow each other in the log, once all are on disk: all of them
        or none. Raises SinkFull, SinkClosed, NotWritten, or ValueError for a value over `max_value_bytes`."""
        num_bytes = self._add(Piece(True, self._clock(), list(values)))
        if (loop := asyncio.get_running_loop()) is not self._loop:
            self._attach(loop)
        future: asyncio.Future[int] = loop.create_future()
        self._awaited.append(_Awaited(num_bytes, future))
        self._awaited_bytes += num_bytes
        self._send_soon(loop)
        return await future

    def append_unsynced(self, value: bytes) -> bool:
        """Write with the next group; False where the sink is full. Raises as `append` does otherwise."""
        running = _running_loop()
        try:
            self._add(Piece(False, self._clock(), [value]))
        except SinkFull:
            return False
        if self._loop is None and running is not None:
            self._attach(running)  # or nobody would hear of a writer that ends
        self._send_soon(running)
        return True

    def end_offset(self) -> int:
        """The offset that the next value of any process will get."""
        return self._log.end_offset()

    @property
    def writer_pid(self) -> int:
        """Of the process that writes."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether values can still be written; once False, never again."""
        return not self._closed

    def close(self) -> None:
        """Write all that waits, then end the process. Further appends raise SinkClosed."""
        if self._closed:
            return
        self._detach()
        self._socket.settimeout(_CLOSE_SECONDS)
        with suppress(OSError):  # it is dead, or the disk does not move
            with self._mutex:
                self._socket.sendall(self._outgoing)
            self._socket.shutdown(socket.SHUT_WR)
            while data := self._socket.recv(_CHUNK_BYTES):
                self._take(data)
        self._closed = True
        self._end()

    def _add(self, piece: Piece) -> int:
        if self._closed:
            raise SinkClosed("the event sink is closed")
        largest, num_bytes = max(map(len, piece.values)), piece.num_bytes
        if largest > self._config.max_value_bytes:
            raise ValueError(f"a value of {largest} bytes; at most {self._config.max_value_bytes} are allowed")
        frame = framed(piece)
        with self._mutex:
            waiting = self._awaited_bytes + len(self._outgoing)
            if waiting + num_bytes > self._config.max_pending_bytes:
                raise SinkFull(f"{waiting} bytes of events wait to be written")
            self._outgoing += frame
        return num_bytes

    def _attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self._detach()
        self._loop = loop
        loop.add_reader(self._socket, self._receive)

    def _detach(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._loop, self._is_sending, self._is_blocked = None, False, False

    def _send_soon(self, running: asyncio.AbstractEventLoop | None) -> None:
        """With what else comes in this turn of the loop, where there is one: then the socket is its thread's alone."""
        loop = self._loop
        if loop is None or loop.is_closed():
            self._send()
        elif not self._is_sending:
            self._is_sending = True
            (loop.call_soon if running is loop else loop.call_soon_threadsafe)(self._send)

    def _send(self) -> None:
        self._is_sending = False
        if self._closed:
            return
        with self._mutex:
            try:
                del self._outgoing[: self._socket.send(self._outgoing)]
            except BlockingIOError:
                pass
            except OSError:
                return  # the writer has ended: `_receive` finds out
            if self._loop is None or self._loop.is_closed() or self._is_blocked == bool(self._outgoing):
                return
            self._is_blocked = bool(self._outgoing)
            if self._is_blocked:
                self._loop.add_writer(self._socket, self._send)
            else:
                self._loop.remove_writer(self._socket)

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(data)
        else:
            self._end()

    def _take(self, data: bytes) -> None:
        self._has_answered = True
        for written in map(self._decoder.decode, self._frames.take(data)):
            if written.num_lost:
                self._on_lost(written.num_lost)
            for place in range(written.num_awaited):
                num_bytes, future = self._awaited.popleft()
                self._awaited_bytes -= num_bytes
                if written.error:
                    _tell(future, NotWritten(written.error))
                else:
                    _tell(future, written.offsets[place])

    def _start(self) -> None:
        settings = WriterSettings(self._log.config, self._config.max_group_bytes, self._config.unsynced_seconds)
        self._process, self._socket = start_writer(self._log.path, settings)
        self._socket.setblocking(False)
        self._frames, self._has_answered = Frames(), False

    def _end(self) -> None:
        """Whatever ended the process, nobody waits for ever."""
        loop = self._loop
        self._detach()
        self._socket.close()
        if self._closed:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_CLOSE_SECONDS)
        self._process.kill()
        code = self._process.wait()
        with self._mutex:
            self._outgoing.clear()
        while self._awaited:
            _tell(self._awaited.popleft().future, SinkClosed("the log writer ended before the value was written"))
        self._awaited_bytes = 0
        if self._closed:
            return
        self._closed = not self._has_answered
        then = "without an answer, so no other is started" if self._closed else "another is started"
        _LOG.error("the log writer ended with %s; %s", code, then)
        if not self._closed:
            self._start_another(loop)

    def _start_another(self, loop: asyncio.AbstractEventLoop | None) -> None:
        try:
            self._start()
        except OSError as error:
            self._closed = True  # a new replica may have better luck
            _LOG.error("no other log writer can be started: %s", error)
            return
        if loop is not None:
            self._attach(loop)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _tell(future: asyncio.Future[int], result: int | SinkError) -> None:
    if future.done() or future.get_loop().is_closed():
        return  # the client may have gone
    if isinstance(result, SinkError):
        future.set_exception(result)
    else:
        future.set_result(result)
