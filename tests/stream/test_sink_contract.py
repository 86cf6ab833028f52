# What every sink keeps: the embedded log's and Kafka's.
from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from stream.kafka_config import KafkaConfig
from stream.kafka_sink import KafkaSink
from stream.kafka_source import KafkaSource
from stream.log import EventLog, LogSource
from stream.log_sink import LogSink
from stream.process_sink import ProcessSink
from stream.sink import SinkClosed, SinkConfig, SinkFull, Value
from stream.source import EventSource
from tests.brokers import Cluster
from tests.stream.waiting import wait_until


class Kind(NamedTuple):
    """One kind of sink, and what reads at its other end."""

    open: Callable[[SinkConfig | None], ProcessSink]
    open_source: Callable[[], EventSource]

    def use(self, use: Callable[[ProcessSink], Awaitable[None]], config: SinkConfig | None = None) -> None:
        """Use a sink in an event loop, then close it."""

        async def run() -> None:
            sink = self.open(config)
            try:
                await use(sink)
            finally:
                sink.close()

        asyncio.run(run())

    def written(self, count: int) -> dict[tuple[str, int], bytes]:
        """(partition, offset) → value, once there are so many."""
        source = self.open_source()
        found: dict[tuple[str, int], bytes] = {}
        try:
            for partition in source.partitions():
                source.seek(partition, 0)

            def is_there() -> bool:
                found.update({(m.partition, m.offset): m.value for m in source.poll(10_000, 0.1)})
                return len(found) >= count

            wait_until(is_there)
            return found
        finally:
            source.close()


@pytest.fixture(params=["log", "kafka"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    if request.param == "log":
        log = EventLog(tmp_path)
        yield Kind(lambda config: LogSink(log, lambda: 1, config), lambda: LogSource(log))
        log.close()
    else:
        broker: Cluster = request.getfixturevalue("broker")
        kafka: KafkaConfig = broker.config(3)
        yield Kind(lambda config: KafkaSink(kafka, lambda: 1, config), lambda: KafkaSource(kafka))


def test_each_of_many_concurrent_calls_is_told_where_its_values_ended(kind: Kind) -> None:
    told: dict[bytes, dict[str, int]] = {}

    async def use(sink: ProcessSink) -> None:
        async def write(name: int) -> None:
            for number in range(20):
                value = f"{name}-{number}".encode()
                told[value] = await sink.append(Value(value, f"user-{name}"))

        await asyncio.gather(*(write(name) for name in range(20)))

    kind.use(use)
    written = kind.written(400)
    assert {value: {partition: offset + 1} for (partition, offset), value in written.items()} == told


def test_values_of_one_key_stay_in_their_order(kind: Kind) -> None:
    async def use(sink: ProcessSink) -> None:
        await asyncio.gather(*(sink.append(Value(b"%d" % number, "u")) for number in range(100)))

    kind.use(use)
    places = sorted((offset, int(value)) for (_, offset), value in kind.written(100).items())
    assert [number for _, number in places] == list(range(100))


def test_an_unsynced_value_is_written_and_closing_writes_all_that_waits(kind: Kind) -> None:
    async def use(sink: ProcessSink) -> None:
        assert sink.append_unsynced(Value(b"slate", "u"))
        call = asyncio.create_task(sink.append(Value(b"event", "u")))
        await asyncio.sleep(0)
        sink.close()
        assert list((await call).values()) == [2]
        assert not sink.is_alive
        with pytest.raises(SinkClosed):
            await sink.append(Value(b"late", "u"))

    kind.use(use)
    assert sorted(kind.written(2).values()) == [b"event", b"slate"]


def test_what_is_too_large_or_too_much_is_refused_and_the_rest_goes_on(kind: Kind) -> None:
    async def use(sink: ProcessSink) -> None:
        with pytest.raises(ValueError, match="a value of 11 bytes; at most 10"):
            await sink.append(Value(bytes(11), "u"))
        psutil.Process(sink.writer_pid).suspend()
        call = asyncio.create_task(sink.append(Value(bytes(10), "u")))
        await asyncio.sleep(0)
        with pytest.raises(SinkFull):
            await sink.append(Value(b"1", "u"))
        assert not sink.append_unsynced(Value(b"2", "u"))
        psutil.Process(sink.writer_pid).resume()
        await call
        await sink.append(Value(b"3", "u"))

    kind.use(use, SinkConfig(max_value_bytes=10, max_pending_bytes=10))
    assert sorted(kind.written(2).values()) == [bytes(10), b"3"]


def test_a_writer_that_is_killed_leaves_nobody_waiting_and_another_takes_its_place(kind: Kind) -> None:
    async def use(sink: ProcessSink) -> None:
        await sink.append(Value(b"first", "u"))
        writer = psutil.Process(sink.writer_pid)
        writer.suspend()
        call = asyncio.create_task(sink.append(Value(b"second", "u")))
        await asyncio.sleep(0)
        writer.send_signal(signal.SIGKILL)
        with pytest.raises(SinkClosed):
            await asyncio.wait_for(call, 60)
        assert list((await sink.append(Value(b"third", "u"))).values()) == [2]
        assert sink.writer_pid != writer.pid

    kind.use(use)
    assert sorted(kind.written(2).values()) == [b"first", b"third"]
