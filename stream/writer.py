# A sink's process: takes pieces from a socket, has them written group by group, and answers for those awaited.
"""`start_writer(MODULE, SETTINGS)` runs `python -m MODULE FD` with its settings on standard input, where they are not
seen in the list of processes; MODULE's `main` calls `run_writer`. At the other end of the socket is a
`stream.process_sink.ProcessSink`.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import NamedTuple, TypeAlias

import msgspec

_LENGTH = struct.Struct("<I")
_CHUNK_BYTES = 1 << 20
_ROOT = Path(__file__).parents[1]


class Value(NamedTuple):
    """What is written as one message: one event or a JSON array of events."""

    data: bytes
    key: str = ""  # whose it is: a user_id, or the item_id of a change of the catalogue; "" of several users
    is_item: bool = False  # a change of the catalogue


class Piece(msgspec.Struct, array_like=True):
    """Values that stay together."""

    is_awaited: bool
    received_at: int  # the sink's clock, milliseconds
    values: list[Value]

    @property
    def num_bytes(self) -> int:
        """Of all values."""
        return sum(len(value.data) for value in self.values)


Outcome: TypeAlias = dict[str, int] | str  # of a piece: partition → offset after its last value there, or what failed


class Written(msgspec.Struct, array_like=True):
    """What became of the next pieces that somebody waits for, in order, and of others between them."""

    outcomes: list[Outcome]
    num_lost: int = 0  # pieces that nobody waits for


class Grouping(msgspec.Struct):
    """How pieces become groups."""

    max_group_bytes: int
    unsynced_seconds: float  # pieces that nobody waits for wait so long for company


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


def start_writer(module: str, settings: msgspec.Struct) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The process, and the sink's end of the socket. It ends when that is closed, however that comes. Raises OSError
    where no process can be started."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", module, str(theirs.fileno())]
        try:
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=_ROOT, stdin=subprocess.PIPE)
        except OSError:
            ours.close()
            raise
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as pipe:  # a process that has ended is found out at the socket
        pipe.write(msgspec.json.encode(settings))
    return process, ours


def run_writer(write: Callable[[Sequence[Piece]], list[Outcome]], grouping: Grouping) -> None:
    """Write group by group, as a process of `start_writer`, until the sink is gone. `write` gives each piece's
    outcome."""
    gone = suppress(BrokenPipeError, ConnectionResetError)  # the sink was killed: nobody wants to know
    with socket.socket(fileno=int(sys.argv[1])) as sink, gone:
        _Writer(sink, write, grouping).run()


def read_settings() -> bytes:
    """What `start_writer` was given, as JSON; also leaves Ctrl-C to who has the sink."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return sys.stdin.buffer.read()


class _Writer:
    def __init__(
        self, sink: socket.socket, write: Callable[[Sequence[Piece]], list[Outcome]], grouping: Grouping
    ) -> None:
        self._sink, self._append, self._grouping = sink, write, grouping
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
                give_up_at = monotonic() + self._grouping.unsynced_seconds
            self._pieces += map(self._decoder.decode, self._frames.take(data))
        return True

    def _next_group(self) -> list[Piece]:
        size = count = 0
        while count < len(self._pieces) and size < self._grouping.max_group_bytes:
            size += self._pieces[count].num_bytes
            count += 1
        group, self._pieces = self._pieces[:count], self._pieces[count:]
        return group

    def _write(self, group: Sequence[Piece]) -> None:
        found = list(zip(group, self._append(group), strict=True))
        outcomes = [outcome for piece, outcome in found if piece.is_awaited]
        num_lost = sum(not piece.is_awaited and isinstance(outcome, str) for piece, outcome in found)
        if outcomes or num_lost:
            self._sink.sendall(framed(Written(outcomes, num_lost)))
