# Calls that wait for the disk together: what an event loop's calls append goes to the sink one group at a time.
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

from stream.sink import EventSink, SinkError


class _Part(NamedTuple):
    values: Sequence[bytes]
    done: asyncio.Future[int]  # the offset of the first of them


class Gathering:
    """Appends the values of concurrent calls of one event loop.

    While a group is on its way to the disk the next one gathers here: a group costs one hand-over to the sink's thread
    and one wake-up of the loop, however many calls it serves. Done call by call, these two cost more than judging an
    event.
    """

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink
        self._parts: list[_Part] = []
        self._is_busy = False

    async def append(self, values: Sequence[bytes]) -> int:
        """The offset after the last of the values (at least one), once all are durable.

        Raises what the sink raises; an error that keeps a group from being written reaches every call of the group.
        """
        loop = asyncio.get_running_loop()
        part = _Part(values, loop.create_future())
        self._parts.append(part)
        if not self._is_busy:
            self._is_busy = True
            loop.call_soon(self._hand_over, loop)  # with what else comes in this turn of the loop
        return await part.done + len(values)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        group, self._parts = self._parts, []

        def tell(written: Future[int]) -> None:  # on the sink's thread
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._tell, loop, group, written)

        try:
            self._sink.append(*(value for part in group for value in part.values)).add_done_callback(tell)
        except (SinkError, ValueError) as error:
            refused: Future[int] = Future()
            refused.set_exception(error)
            self._tell(loop, group, refused)

    def _tell(self, loop: asyncio.AbstractEventLoop, group: Sequence[_Part], written: Future[int]) -> None:
        error = written.exception()
        offset = 0 if error else written.result()
        for part in group:
            if not part.done.done():  # the client may have gone
                if error:
                    part.done.set_exception(error)
                else:
                    part.done.set_result(offset)
            offset += len(part.values)
        if self._parts:
            self._hand_over(loop)
        else:
            self._is_busy = False
