# A TCP proxy on loopback whose network can be cut.
from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import TypeVar

_Result = TypeVar("_Result")


class TcpProxy:
    """Passes connections on to a port, in a thread of its own, while it is not cut."""

    def __init__(self, port: int, target_port: int) -> None:
        self._port, self._target_port, self._is_cut = port, target_port, False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._connected, "127.0.0.1", port))

    def cut(self) -> None:
        """End all connections, and refuse new ones until `mend`."""
        self._is_cut = True
        self._do(self._end_all())

    def mend(self) -> None:
        """Connections pass again."""
        self._is_cut = False

    def close(self) -> None:
        """Stop."""
        self._server.close()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[object, object, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError):
            if not self._is_cut:
                there = await asyncio.open_connection("127.0.0.1", self._target_port)
                self._writers.add(there[1])
                await asyncio.gather(_pass_on(reader, there[1]), _pass_on(there[0], writer))
                self._end(there[1])
        self._end(writer)

    async def _end_all(self) -> None:
        for writer in list(self._writers):
            self._end(writer)

    def _end(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
