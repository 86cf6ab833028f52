# Kafka as a sink: keys, topics, and brokers that come and go.
from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from kafka import KafkaConsumer, TopicPartition
from pydantic import SecretStr

from stream.kafka_config import ClientSettings, KafkaConfig
from stream.kafka_sink import KafkaSink
from stream.sink import NotWritten, Value
from tests.brokers import Cluster


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


def read_all(config: KafkaConfig, topic: str, num_partitions: int) -> dict[int, list[tuple[bytes | None, bytes]]]:
    """(key, value) of all messages of a topic, by partition."""
    consumer = KafkaConsumer(bootstrap_servers=config.servers, enable_auto_commit=False)
    partitions = [TopicPartition(topic, number) for number in range(num_partitions)]
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    ends = consumer.end_offsets(partitions)
    found: dict[int, list[tuple[bytes | None, bytes]]] = {number: [] for number in range(num_partitions)}
    while any(consumer.position(each) < ends[each] for each in partitions):
        for each, records in consumer.poll(1000).items():
            found[each.partition] += [(record.key, record.value) for record in records]
    consumer.close()
    return found


def test_events_are_keyed_by_user_and_changes_of_the_catalogue_by_item_in_their_own_topic(broker: Cluster) -> None:
    config = broker.config(4)

    async def run() -> None:
        sink = KafkaSink(config, lambda: 1)
        users = [Value(b"%d" % number, f"u{number % 10}") for number in range(50)]
        offsets = await sink.append(*users, Value(b"item", "i1", is_item=True))
        assert sum(offsets.values()) == 51
        sink.close()

    asyncio.run(run())
    events = read_all(config, config.topics.events, 4)
    homes: dict[bytes | None, set[int]] = {}
    for number, records in events.items():
        for key, _ in records:
            homes.setdefault(key, set()).add(number)
    assert len(homes) == 10
    assert all(len(partitions) == 1 for partitions in homes.values())
    assert len(set.union(*homes.values())) > 1
    items = [record for records in read_all(config, config.topics.items, 4).values() for record in records]
    assert items == [(b"i1", b"item")]


def test_what_no_broker_takes_fails_by_name_and_is_taken_again_once_it_is_back(own_broker: Cluster) -> None:
    patient: ClientSettings = {"delivery_timeout_ms": 1_500, "request_timeout_ms": 1_000, "max_block_ms": 1_500}
    config = replace(own_broker.config(), client={"bootstrap_timeout_ms": 1_500}, producer=patient)

    async def run() -> None:
        sink = KafkaSink(config, lambda: 1)
        first = await sink.append(Value(b"before", "u"))
        own_broker.kill(own_broker.nodes[0])
        with pytest.raises(NotWritten, match="Kafka does not take it"):
            await asyncio.wait_for(sink.append(Value(b"meanwhile", "u")), 60)
        own_broker.start(own_broker.nodes[0])
        deadline = asyncio.get_running_loop().time() + 120
        while True:
            try:
                after = await sink.append(Value(b"after", "u"))
                break
            except NotWritten:
                assert asyncio.get_running_loop().time() < deadline
        assert sink.is_alive
        assert sum(after.values()) > sum(first.values())
        sink.close()

    asyncio.run(run())
    values = [value for _, value in read_all(config, config.topics.events, 1)[0]]
    assert (values[0], values[-1]) == (b"before", b"after")
    assert set(values) <= {b"before", b"meanwhile", b"after"}
    assert values.count(b"after") == 1


def test_a_topic_that_is_not_there_is_named(broker: Cluster) -> None:
    config = replace(broker.config(), producer={"max_block_ms": 1_000})
    config = replace(config, topics=replace(config.topics, events="nowhere"))

    async def run() -> None:
        sink = KafkaSink(config, lambda: 1)
        with pytest.raises(NotWritten, match=r"nowhere|metadata"):
            await sink.append(Value(b"x", "u"))
        sink.close()

    asyncio.run(run())


def test_no_secret_is_in_a_command_line_or_a_text_form(broker: Cluster, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret-of-file\n")
    secured = {"security": "SASL_SSL", "username": "me", "client": {"ssl_password": "s3cret-of-key"}}
    config = replace(broker.config(), password_file=tmp_path / "password", **secured)  # type: ignore[arg-type]
    sink = KafkaSink(config, lambda: 1)
    process = psutil.Process(sink.writer_pid)
    told = " ".join(process.cmdline()) + str(process.environ())
    sink.close()
    plain = replace(config, password_file=None, password=SecretStr("s3cret-itself"))
    for settings in (config, plain):
        told += repr(settings) + repr(settings.writer_settings()) + repr(sink.__dict__)
    assert "s3cret" not in told
    assert config.client_settings()["sasl_plain_password"] == "s3cret-of-file"
    assert plain.client_settings()["sasl_plain_password"] == "s3cret-itself"
