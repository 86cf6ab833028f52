# What every source that can be sought keeps: the embedded log and Kafka's topics.
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from stream.kafka_source import KafkaSource
from stream.log import PARTITION, EventLog, LogSource
from stream.source import EventSource, Message, SourceLost
from tests.brokers import Cluster

SECONDS = 30.0


class Kind(NamedTuple):
    """One kind of source, and what stands at its other end."""

    partition: str
    append: Callable[[Sequence[bytes]], object]
    trim: Callable[[int], object]  # drop what is before an offset
    open: Callable[[], EventSource]


def _of_log(path: Path) -> Iterator[Kind]:
    log = EventLog(path)
    yield Kind(
        PARTITION, lambda values: log.append(values, 5), lambda offset: log.trim(offset, 10), lambda: LogSource(log)
    )
    log.close()


def _of_kafka(broker: Cluster) -> Iterator[Kind]:
    config = broker.config()
    producer, opened = KafkaProducer(bootstrap_servers=broker.servers), list[KafkaSource]()

    def append(values: Sequence[bytes]) -> None:
        for sent in [producer.send(config.topics.events, value) for value in values]:
            sent.get(SECONDS)

    def trim(offset: int) -> None:
        admin = KafkaAdminClient(bootstrap_servers=broker.servers)
        admin.delete_records({TopicPartition(config.topics.events, 0): offset})
        admin.close()

    def open_source() -> KafkaSource:
        opened.append(source := KafkaSource(config))
        for partition in source.partitions():
            source.seek(partition, 0)
        return source

    yield Kind(f"{config.topics.events}-0", append, trim, open_source)
    for source in opened:
        source.close()
    producer.close()


@pytest.fixture(params=["log", "kafka"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    if request.param == "log":
        yield from _of_log(tmp_path)
    else:
        yield from _of_kafka(request.getfixturevalue("broker"))


def read(source: EventSource, count: int) -> list[Message]:
    """So many messages, however many polls they take."""
    found: list[Message] = []
    deadline = monotonic() + SECONDS
    while len(found) < count and monotonic() < deadline:
        found += source.poll(count - len(found), 0.1)
    return found


def test_values_are_read_in_order_each_with_its_offset_and_a_stamp_that_does_not_go_back(kind: Kind) -> None:
    values = [b"%d" % number for number in range(1000)]
    kind.append(values)
    source = kind.open()
    source.seek(kind.partition, 0)
    found = read(source, 1000)
    assert [(message.partition, message.offset, message.value) for message in found] == [
        (kind.partition, offset, value) for offset, value in enumerate(values)
    ]
    assert found[0].received_at > 0
    assert sorted(found, key=lambda message: message.received_at) == found


def test_a_poll_gives_no_more_than_it_is_asked_for_and_nothing_where_nothing_is(kind: Kind) -> None:
    source = kind.open()
    source.seek(kind.partition, 0)
    assert source.poll(3, 0) == []
    kind.append([b"a", b"b", b"c", b"d"])
    source.wait(SECONDS)
    assert 1 <= len(first := source.poll(3, 0)) <= 3
    assert [m.value for m in first + read(source, 4 - len(first))] == [b"a", b"b", b"c", b"d"]
    assert source.poll(3, 0.01) == []


@pytest.mark.parametrize("offset", [0, 2, 4])
def test_it_goes_on_at_the_offset_that_was_sought(kind: Kind, offset: int) -> None:
    kind.append([b"0", b"1", b"2", b"3"])
    source = kind.open()
    source.seek(kind.partition, offset)
    kind.append([b"4"])
    assert [message.value for message in read(source, 5 - offset)] == [b"%d" % number for number in range(offset, 5)]
    source.seek(kind.partition, 1)
    assert [message.offset for message in read(source, 4)] == [1, 2, 3, 4]


def test_end_offsets_are_those_of_the_next_messages(kind: Kind) -> None:
    source = kind.open()
    assert source.end_offsets()[kind.partition] == 0
    kind.append([b"a", b"b"])
    assert source.end_offsets()[kind.partition] == 2
    assert kind.partition in source.partitions()


def test_an_offset_that_is_not_there_is_refused_with_what_is(kind: Kind) -> None:
    kind.append([b"0", b"1", b"2", b"3"])
    source = kind.open()
    for offset in (5, 100):
        with pytest.raises((ValueError, SourceLost), match=str(offset)):
            source.seek(kind.partition, offset)
    kind.trim(2)
    with pytest.raises((ValueError, SourceLost), match=r"\b1\b.*\b2\b|\b2\b.*\b1\b"):
        source.seek(kind.partition, 1)
    assert source.seek(kind.partition, None) in (0, 2)  # the log says 0 for its oldest, whatever that is
    assert [message.offset for message in read(source, 2)] == [2, 3]


def test_another_partition_is_refused_by_name(kind: Kind) -> None:
    with pytest.raises((ValueError, SourceLost), match="nowhere-7"):
        kind.open().seek("nowhere-7", 0)


def test_two_readers_each_read_all(kind: Kind) -> None:
    kind.append([b"a", b"b"])
    sources = [kind.open(), kind.open()]
    for source in sources:
        source.seek(kind.partition, 0)
    assert [[m.value for m in read(source, 2)] for source in sources] == [[b"a", b"b"]] * 2


def test_upkeep_changes_nothing_that_is_read(kind: Kind) -> None:
    kind.append([b"a", b"b"])
    source = kind.open()
    source.seek(kind.partition, 0)
    first = read(source, 1)
    source.keep({kind.partition: 1})
    assert [m.value for m in first + read(source, 1)] == [b"a", b"b"]
    assert source.identity() == kind.open().identity()
