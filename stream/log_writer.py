# The process that writes a sink's values to the embedded log: all that waits goes in one synced transaction.
"""As a process: `python -m stream.log_writer PATH FD SETTINGS` reads pieces from the socket FD until its end, and
answers for those that somebody waits for. At the other end is a `stream.sink.LogSink`.

A process, because LMDB's many short calls in a thread beside an event loop each asked for the interpreter's lock: a
group that the disk has in 0.3 ms took 2.3 ms, and the loop 120 us more for each call.
"""

from __future__ import annotations

import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic

import msgspec

from state.lock import StoreError
from stream.log import EventLog, EventLogConfig

_LENGTH = struct.Struct("<I")
_CHUNK_BYTES = 1 << 20
_ROOT = Path(__file__).parents[1]


class WriterSettings(msgspec.Struct):
    """What the process is told by its sink."""

    log: EventLogConfig
    max_group_bytes: int
    unsynced_seconds: float


class Piece(msgspec.Struct, array_like=True):
    """Values that stay together."""

    is_awaited: bool
    received_at: int  # the sink's clock, milliseconds
    values: list[bytes]

    @property
    def num_bytes(self) -> int:
        """Of all values."""
        return sum(map(len, self.values))


class Written(msgspec.Struct, array_like=True):
    """What became of the next pieces that somebody waits for, in order, and of others between them."""

    offsets: list[int]  # of the first value of each; empty where the group could not be written
    num_awaited: int
    num_lost: int = 0  # pieces that nobody waits for
    error: str = ""


class Frames:
    """Whole messages out of a stream of bytes, each after its length."""

    def __init__(self) -> None:
        self._data = bytearray()

    def take(self, data: bytes) -> Iterator[bytes]:
        """Messages that are whole with these bytes."""
        self._data += data
        start = 0
        while start + _LENGTH.size <= len(self._data):
            end = start + _LENGTH.size + _LENGTH.unpack_from(self._data, start)[0]
            if end > len(self._data):
                break
            yield bytes(self._data[start + _LENGTH.size : end])
            start = end
        del self._data[:start]


def framed(message: Piece | Written) -> bytes:
    """A message as it goes over the socket."""
    data = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(data)) + data


def start_writer(path: Path, settings: WriterSettings) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The process for a log, and the sink's end of the socket. It ends when that is closed, however that comes. Raises
    OSError where no process can be started."""
    ours, theirs = socket.socketpair()
    with theirs:
        arguments = [str(path.resolve()), str(theirs.fileno()), msgspec.json.encode(settings).decode()]
        command = [sys.executable, "-m", "stream.log_writer", *arguments]
        try:
            return subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=_ROOT), ours
        except OSError:
            ours.close()
            raise


class Writer:
    """The process's one loop."""

    def __init__(self, log: EventLog, sink: socket.socket, settings: WriterSettings) -> None:
        self._log, self._sink, self._settings = log, sink, settings
        self._frames = Frames()
        self._pieces: list[Piece] = []
        self._decoder = msgspec.msgpack.Decoder(Piece)

    def run(self) -> None:
        """Write until the sink closes its end, then what is left."""
        is_open = True
        while is_open:
            is_open = self._read()
            while self._pieces:
                self._write(self._next_group())

    def _read(self) -> bool:
        """Wait for pieces that somebody waits for; others may wait a while for company. False at the end."""
        give_up_at = float("inf")
        while not any(piece.is_awaited for piece in self._pieces) and monotonic() < give_up_at:
            left = None if not self._pieces else max(0.0, give_up_at - monotonic())
            if not select.select([self._sink], [], [], left)[0]:
                break
            data = self._sink.recv(_CHUNK_BYTES)
            if not data:
                return False
            if not self._pieces:
                give_up_at = monotonic() + self._settings.unsynced_seconds
            self._pieces += map(self._decoder.decode, self._frames.take(data))
        return True

    def _next_group(self) -> list[Piece]:
        size = count = 0
        while count < len(self._pieces) and size < self._settings.max_group_bytes:
            size += self._pieces[count].num_bytes
            count += 1
        group, self._pieces = self._pieces[:count], self._pieces[count:]
        return group

    def _write(self, group: Sequence[Piece]) -> None:
        offsets: list[int] = []
        num_awaited = sum(piece.is_awaited for piece in group)
        error = ""
        try:
            received_at = max(piece.received_at for piece in group)
            offset = self._log.append([value for piece in group for value in piece.values], received_at)
            for piece in group:
                if piece.is_awaited:
                    offsets.append(offset)
                offset += len(piece.values)
        except (StoreError, OSError) as failure:
            error = str(failure)
        if num_awaited or error:
            self._sink.sendall(framed(Written(offsets, num_awaited, len(group) - num_awaited if error else 0, error)))


def main() -> None:
    """Write until the sink is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who has the sink
    path, file, settings = sys.argv[1:]
    log = EventLog(Path(path), (told := msgspec.json.decode(settings, type=WriterSettings)).log)
    gone = suppress(BrokenPipeError, ConnectionResetError)  # the sink was killed: nobody wants to know
    with socket.socket(fileno=int(file)) as sink, gone:
        Writer(log, sink, told).run()
    log.close()


if __name__ == "__main__":
    main()
