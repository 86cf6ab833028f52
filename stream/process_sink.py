# A sink whose values are written by a process of its own.
from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

import msgspec

from stream.sink import NotWritten, SinkClosed, SinkConfig, SinkError, SinkFull
from stream.writer import Frames, Grouping, Piece, Value, Written, framed

_CHUNK_BYTES = 1 << 16
_CLOSE_SECONDS = 30.0
_LOG = logging.getLogger("runnel.stream")


class _Awaited(NamedTuple):
    """A piece that somebody waits for."""

    num_bytes: int
    future: asyncio.Future[dict[str, int]]


class ProcessSink:
    """Group commit by a process of its own (`stream.writer`); which one, and where it writes to, a subclass says.

    While one group is written the next one gathers, so thousands of values go with each sync of a disk. What cannot be
    written fails the calls it came with; later groups are tried again. `clock` gives the milliseconds that a value is
    stamped with; `on_lost` is told of unsynced values that could not be written. `append` is for one event loop at a
    time, the rest for any thread. Where the process ends, who waits is told so and another is started; one that ends
    before it has answered at all closes the sink.
    """

    is_keyed = False

    def __init__(
        self,
        clock: Callable[[], int],
        config: SinkConfig | None = None,
        on_lost: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._clock, self.config, self._on_lost = clock, config or SinkConfig(), on_lost
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

    def start_writer(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """The process that writes, and our end of its socket. Raises OSError where none can be started."""
        raise NotImplementedError

    def num_behind(self, folded: Mapping[str, int]) -> int:
        """Values that wait for a fold stage which has read up to these offsets, as far as the sink should mind."""
        raise NotImplementedError

    async def append(self, *values: Value) -> dict[str, int]:
        """Partition → the offset after the last of the values that went there, once all are durable. Raises SinkFull,
        SinkClosed, NotWritten, or ValueError for a value over `max_value_bytes`."""
        num_bytes = self._add(Piece(True, self._clock(), list(values)))
        if (loop := asyncio.get_running_loop()) is not self._loop:
            self._attach(loop)
        future: asyncio.Future[dict[str, int]] = loop.create_future()
        self._awaited.append(_Awaited(num_bytes, future))
        self._awaited_bytes += num_bytes
        self._send_soon(loop)
        return await future

    def append_unsynced(self, value: Value) -> bool:
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

    @property
    def grouping(self) -> Grouping:
        """How the process gathers values."""
        return Grouping(self.config.max_group_bytes, self.config.unsynced_seconds)

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
        largest, num_bytes = max(len(value.data) for value in piece.values), piece.num_bytes
        if largest > self.config.max_value_bytes:
            raise ValueError(f"a value of {largest} bytes; at most {self.config.max_value_bytes} are allowed")
        frame = framed(piece)
        with self._mutex:
            waiting = self._awaited_bytes + len(self._outgoing)
            if waiting + num_bytes > self.config.max_pending_bytes:
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
            for outcome in written.outcomes:
                num_bytes, future = self._awaited.popleft()
                self._awaited_bytes -= num_bytes
                _tell(future, NotWritten(outcome) if isinstance(outcome, str) else outcome)

    def _start(self) -> None:
        self._process, self._socket = self.start_writer()
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
            _tell(self._awaited.popleft().future, SinkClosed("the writer ended before the value was written"))
        self._awaited_bytes = 0
        if self._closed:
            return
        self._closed = not self._has_answered
        then = "without an answer, so no other is started" if self._closed else "another is started"
        _LOG.error("the process that writes events ended with %s; %s", code, then)
        if not self._closed:
            self._start_another(loop)

    def _start_another(self, loop: asyncio.AbstractEventLoop | None) -> None:
        try:
            self._start()
        except OSError as error:
            self._closed = True  # a new replica may have better luck
            _LOG.error("no other process that writes events can be started: %s", error)
            return
        if loop is not None:
            self._attach(loop)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _tell(future: asyncio.Future[dict[str, int]], result: dict[str, int] | SinkError) -> None:
    if future.done() or future.get_loop().is_closed():
        return  # the client may have gone
    if isinstance(result, SinkError):
        future.set_exception(result)
    else:
        future.set_result(result)
