# A cheap HTTP client for the benchmarks: prepared requests over keep-alive connections to loopback.
from __future__ import annotations

import socket
from contextlib import suppress
from typing import NamedTuple

_HEAD = b"%s %s HTTP/1.1\r\nHost: runnel\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    body: bytes
    head: bytes  # in small letters

    @property
    def is_last(self) -> bool:
        """Whether the server closes the connection after it."""
        return b"connection: close" in self.head


def prepared(method: str, path: str, body: bytes = b"") -> bytes:
    """A whole HTTP request."""
    return _HEAD % (method.encode(), path.encode(), len(body)) + body


class Line:
    """A connection that is asked now and answers later. Costs about 30 us a call; raises OSError where it is gone.

    Answers must say their length.
    """

    def __init__(self, port: int, timeout_seconds: float = 30.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout_seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = b""

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def send(self, request: bytes) -> None:
        """Send a prepared request."""
        self._data = b""
        self._socket.sendall(request)

    def receive(self) -> Reply | None:
        """Wait for a part of the answer; the answer once it is whole."""
        data = self._socket.recv(65_536)
        if not data:
            raise ConnectionError("the other side closed the connection")
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return None
        head = head.lower()
        if len(body) < int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]):
            return None
        return Reply(int(head[9:12]), body, head)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class Connection:
    """Asks and waits.

    A kept connection that the other side has closed meanwhile, as a proxy does that is replaced, is opened anew once.
    Raises OSError where the other side is gone; the next call connects anew.
    """

    def __init__(self, port: int, timeout_seconds: float = 30.0) -> None:
        self._port, self._timeout = port, timeout_seconds
        self._line: Line | None = None

    def call(self, request: bytes) -> Reply:
        """Send a prepared request and wait for its answer."""
        if self._line is not None:
            with suppress(ConnectionError):
                return self._exchange(self._line, request)
        self._line = Line(self._port, self._timeout)
        return self._exchange(self._line, request)

    def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _exchange(self, line: Line, request: bytes) -> Reply:
        try:
            line.send(request)
            while (reply := line.receive()) is None:
                pass
        except OSError:
            self.close()
            raise
        return reply
