# The group commit: an acknowledged value is in the log, an error reaches who waits, and closing loses nothing.
from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from stream.log import PARTITION, EventLog, EventLogConfig
from stream.log_sink import LogSink
from stream.sink import NotWritten, SinkClosed, SinkConfig, SinkFull, Value
from tests.stream.waiting import wait_until

KILLED_SINK = """
import asyncio, os, signal, sys
from pathlib import Path
from stream.log import EventLog
from stream.log_sink import LogSink
from stream.sink import Value

async def main():
    sink = LogSink(EventLog(Path(sys.argv[1])), lambda: 1)
    print(sink.writer_pid, *(await sink.append(Value(b"acknowledged"))).values(), flush=True)
    sink.append_unsynced(Value(b"sent"))
    await asyncio.sleep(0)  # it goes with what else comes in a turn of the loop
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    log = EventLog(tmp_path / "log")
    yield log
    log.close()


def values_of(log: EventLog) -> list[bytes]:
    return [message.value for message in log.read(0, 100_000)]


def with_sink(
    log: EventLog,
    use: Callable[[LogSink], Awaitable[None]],
    config: SinkConfig | None = None,
    clock: Callable[[], int] = lambda: 1,
) -> None:
    """Use a sink in an event loop, then close it."""

    async def run() -> None:
        sink = LogSink(log, clock, config)
        try:
            await use(sink)
        finally:
            sink.close()

    asyncio.run(run())


async def appended(sink: LogSink, *values: bytes) -> int:
    """The offset of the first of the values, which follow each other."""
    return (await sink.append(*map(Value, values)))[PARTITION] - len(values)


def has_ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)  # nobody may be there to take its leave
    except psutil.NoSuchProcess:
        return True


async def sent(calls: list[asyncio.Task[int]]) -> None:
    """Let tasks run until each waits and what they brought is on its way."""
    for _ in range(3 * len(calls)):
        await asyncio.sleep(0)


def test_a_value_is_in_the_log_at_its_offset_once_acknowledged(log: EventLog) -> None:
    async def use(sink: LogSink) -> None:
        assert await appended(sink, b"a") == 0
        assert values_of(log) == [b"a"]
        assert await appended(sink, b"b", b"c") == 1
        assert await appended(sink, b"d") == log.end_offset() - 1 == 3

    with_sink(log, use, clock=lambda: 77)
    assert [message.received_at for message in log.read(0, 9)] == [77] * 4


def test_every_one_of_many_concurrent_calls_gets_its_own_offset(log: EventLog) -> None:
    offsets: dict[bytes, int] = {}

    async def use(sink: LogSink) -> None:
        async def write(name: int) -> None:
            for number in range(50):
                values = [f"{name}-{number}-{part}".encode() for part in range(1 + number % 3)]
                first = await appended(sink, *values)
                offsets.update({value: first + place for place, value in enumerate(values)})
                assert sink.append_unsynced(Value(b"slate"))

        await asyncio.gather(*(write(name) for name in range(20)))

    with_sink(log, use)
    written = {message.value: message.offset for message in log.read(0, 100_000)}
    assert offsets == {value: offset for value, offset in written.items() if value != b"slate"}
    assert values_of(log).count(b"slate") == 1000


def test_what_comes_while_a_group_is_synced_goes_together_into_the_next(log: EventLog) -> None:
    async def use(sink: LogSink) -> None:
        before = await appended(sink, b"first"), log.last_commit()
        writer = psutil.Process(sink.writer_pid)
        writer.suspend()
        calls = [asyncio.create_task(appended(sink, b"%d" % number)) for number in range(50)]
        await sent(calls)
        writer.resume()
        assert await asyncio.gather(*calls) == list(range(1, 51))
        assert log.last_commit() - before[1] <= 2

    with_sink(log, use)


def test_closing_writes_all_that_waits_and_then_refuses(log: EventLog) -> None:
    async def use(sink: LogSink) -> None:
        calls = [asyncio.create_task(appended(sink, b"%d" % number)) for number in range(10)]
        await asyncio.sleep(0)
        assert sink.append_unsynced(Value(b"slate"))
        sink.close()
        assert await asyncio.gather(*calls) == list(range(10))
        assert values_of(log)[10] == b"slate"
        assert not sink.is_alive
        with pytest.raises(SinkClosed):
            await appended(sink, b"late")
        with pytest.raises(SinkClosed):
            sink.append_unsynced(Value(b"late"))

    with_sink(log, use)


def test_an_unsynced_value_is_written_without_anyone_waiting_for_it(log: EventLog) -> None:
    sink = LogSink(log, lambda: 1, SinkConfig(unsynced_seconds=0.001))
    assert sink.append_unsynced(Value(b"slate"))  # in no event loop
    wait_until(lambda: values_of(log) == [b"slate"], 30)
    sink.close()


def test_a_sink_serves_one_event_loop_after_another(log: EventLog) -> None:
    sink = LogSink(log, lambda: 1)
    assert [asyncio.run(appended(sink, b"%d" % number)) for number in range(3)] == [0, 1, 2]
    sink.close()


def test_a_log_that_cannot_write_fails_who_waits_and_is_tried_again(tmp_path: Path) -> None:
    log = EventLog(tmp_path, EventLogConfig(map_bytes=1 << 20))

    async def use(sink: LogSink) -> None:
        assert sink.append_unsynced(Value(bytes(100)))
        with pytest.raises(NotWritten, match=str(tmp_path)):
            await appended(sink, bytes(2 << 20))
        assert await appended(sink, b"small") == log.end_offset() - 1

    with_sink(log, use, SinkConfig(max_value_bytes=4 << 20))
    assert values_of(log)[-1] == b"small"
    log.close()


def test_a_cancelled_call_harms_no_other(log: EventLog) -> None:
    async def use(sink: LogSink) -> None:
        psutil.Process(sink.writer_pid).suspend()
        calls = [asyncio.create_task(appended(sink, value)) for value in (b"a", b"b", b"c")]
        await sent(calls)
        calls[1].cancel()
        psutil.Process(sink.writer_pid).resume()
        assert [await calls[0], await calls[2]] == [0, 2]

    with_sink(log, use)


def test_a_writer_that_is_killed_leaves_nobody_waiting_and_another_takes_its_place(log: EventLog) -> None:
    async def use(sink: LogSink) -> None:
        assert await appended(sink, b"first") == 0
        writer = psutil.Process(sink.writer_pid)
        writer.suspend()
        calls = [asyncio.create_task(appended(sink, b"%d" % number)) for number in range(3)]
        await sent(calls)
        writer.send_signal(signal.SIGKILL)
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in found] == [SinkClosed] * 3
        assert await appended(sink, b"more") == 1
        assert (sink.is_alive, sink.writer_pid != writer.pid) == (True, True)

    with_sink(log, use)
    assert values_of(log) == [b"first", b"more"]


def test_a_writer_that_ends_before_it_has_answered_closes_the_sink(
    log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(sink: LogSink) -> None:
        psutil.Process(sink.writer_pid).send_signal(signal.SIGKILL)
        with pytest.raises(SinkClosed):
            await appended(sink, b"a")
        assert not sink.is_alive
        with pytest.raises(SinkClosed):
            await appended(sink, b"b")

    with_sink(log, use)
    assert "ended with -9; without an answer" in caplog.text


def test_a_writer_that_nothing_can_take_the_place_of_closes_the_sink(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(sink: LogSink) -> None:
        assert await appended(sink, b"first") == 0
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        psutil.Process(sink.writer_pid).send_signal(signal.SIGKILL)
        with pytest.raises(SinkClosed):
            await asyncio.wait_for(appended(sink, b"second"), 30)
        assert not sink.is_alive
        with pytest.raises(SinkClosed):
            await appended(sink, b"third")

    with_sink(log, use)
    assert "no other process that writes events can be started" in caplog.text


def test_a_sink_that_wrote_nothing_awaited_notices_that_its_writer_ended(log: EventLog) -> None:
    async def use(sink: LogSink) -> None:
        sink.append_unsynced(Value(b"slate"))
        psutil.Process(sink.writer_pid).send_signal(signal.SIGKILL)
        deadline = asyncio.get_running_loop().time() + 30
        while sink.is_alive and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.001)
        assert not sink.is_alive

    with_sink(log, use)


def test_a_sink_that_is_killed_leaves_no_process_and_what_it_sent_is_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_SINK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    pid, end = map(int, done.stdout.split())
    wait_until(lambda: has_ended(pid), 30)
    log = EventLog(tmp_path)
    assert end == 1
    assert values_of(log) == [b"acknowledged", b"sent"]
    log.close()


def test_a_sink_that_holds_too_much_refuses_and_drops_only_what_is_unsynced(log: EventLog) -> None:
    async def use(sink: LogSink) -> None:
        psutil.Process(sink.writer_pid).suspend()
        calls = [asyncio.create_task(appended(sink, bytes(10)))]
        await sent(calls)
        with pytest.raises(SinkFull):
            await appended(sink, b"1")
        assert not sink.append_unsynced(Value(b"2"))
        psutil.Process(sink.writer_pid).resume()
        assert await calls[0] == 0
        assert await appended(sink, b"3") == 1

    with_sink(log, use, SinkConfig(max_pending_bytes=10))


def test_more_than_a_socket_holds_comes_whole_and_in_order(log: EventLog) -> None:
    async def use(sink: LogSink) -> None:
        psutil.Process(sink.writer_pid).suspend()
        calls = [asyncio.create_task(appended(sink, b"%d" % number + bytes(100_000))) for number in range(50)]
        await sent(calls)
        psutil.Process(sink.writer_pid).resume()
        assert await asyncio.gather(*calls) == list(range(50))

    with_sink(log, use)
    assert [int(value.rstrip(b"\0")) for value in values_of(log)] == list(range(50))


def test_a_value_too_large_for_a_delta_is_refused(log: EventLog) -> None:
    async def use(sink: LogSink) -> None:
        with pytest.raises(ValueError, match="a value of 11 bytes; at most 10"):
            await appended(sink, bytes(11))

    with_sink(log, use, SinkConfig(max_value_bytes=10))
