# Calls of one event loop gather into groups: each gets its own offset, and no call's end is another's.
from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from serving.gathering import Gathering
from stream.log import EventLog
from stream.sink import LogSink, LogSinkConfig, SinkFull


class CountingSink(LogSink):
    """A sink that tells how many groups it was handed, and lets the first one wait."""

    def __init__(self, log: EventLog, config: LogSinkConfig | None = None) -> None:
        super().__init__(log, lambda: 1, config)
        self.groups: list[int] = []
        self.handed_over, self.first = threading.Event(), Future[int]()

    def append(self, *values: bytes) -> Future[int]:
        self.groups.append(len(values))
        written = super().append(*values)
        if len(self.groups) > 1:
            return written
        written.result(30)
        self.handed_over.set()
        return self.first


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    log = EventLog(tmp_path)
    yield log
    log.close()


async def started(calls: list[asyncio.Task[int]]) -> None:
    """Let tasks run until each waits."""
    for _ in range(3 * len(calls)):
        await asyncio.sleep(0)


def test_what_comes_while_a_group_is_written_goes_as_one_and_each_call_gets_its_offset(log: EventLog) -> None:
    sink = CountingSink(log)

    async def run() -> list[int]:
        gathering = Gathering(sink)
        first = asyncio.create_task(gathering.append([b"a"]))
        await asyncio.to_thread(sink.handed_over.wait, 30)
        others = [asyncio.create_task(gathering.append([b"%d" % n, b"%d'" % n])) for n in range(20)]
        await started(others)
        others[3].cancel()
        sink.first.set_result(0)
        ends = [await first, *await asyncio.gather(*others[:3], *others[4:])]
        return [*ends, await gathering.append([b"z"])]

    ends = asyncio.run(run())
    sink.close()
    assert sink.groups == [1, 40, 1]
    values = [message.value for message in log.read(0, 100)]
    assert ends[0] == 1
    assert ends[1:-1] == [values.index(b"%d'" % n) + 1 for n in range(20) if n != 3]
    assert ends[-1] == len(values) == 42


def test_an_error_reaches_every_call_of_its_group_and_the_next_group_goes_on(log: EventLog) -> None:
    sink = CountingSink(log, LogSinkConfig(max_pending_bytes=100))

    async def run() -> list[int | BaseException]:
        gathering = Gathering(sink)
        first = asyncio.create_task(gathering.append([b"a"]))
        await asyncio.to_thread(sink.handed_over.wait, 30)
        refused = [asyncio.create_task(gathering.append([bytes(60)])) for _ in range(2)]
        await started(refused)
        sink.first.set_exception(OSError("the disk is gone"))
        ends = await asyncio.gather(first, *refused, return_exceptions=True)
        return [*ends, await gathering.append([b"z"])]

    ends = asyncio.run(run())
    sink.close()
    assert [type(end) for end in ends] == [OSError, SinkFull, SinkFull, int]
    assert [message.value for message in log.read(0, 100)] == [b"a", b"z"]
