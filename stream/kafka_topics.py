# Runnel's topics on a Kafka: what they are like, and how they are made.
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from kafka import KafkaAdminClient
from kafka import errors as kafka_errors

from stream.kafka_config import KafkaConfig
from stream.source import SourceUnready

_ADMIN = {"request_timeout_ms": 10_000}
_EVENTS = {"message.timestamp.type": "LogAppendTime"}  # received_at: events are judged by it
_ITEMS = {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "compact"}


class Topic(NamedTuple):
    """What a broker says of a topic."""

    topic_id: str  # another one where it was deleted and made anew
    partitions: list[int]


def describe_topics(config: KafkaConfig, names: Sequence[str]) -> dict[str, Topic]:
    """Those of the topics that exist. Raises SourceUnready where no broker answers."""
    with _admin(config) as admin:
        found = admin.describe_topics(list(names))
    return {
        topic["name"]: Topic(str(topic["topic_id"]), sorted(each["partition_index"] for each in topic["partitions"]))
        for topic in found
        if not topic["error_code"]
    }


def make_topics(config: KafkaConfig, num_partitions: int, num_replicas: int = -1) -> list[str]:
    """Make those of our topics that are missing; which. `num_replicas` -1: as many as is the brokers' default. Raises
    SourceUnready where no broker answers or it does not let us."""
    wanted: dict[str, Mapping[str, str]] = {config.topics.events: _EVENTS, config.topics.items: _ITEMS}
    with _admin(config) as admin:
        there = {topic["name"] for topic in admin.describe_topics(list(wanted)) if not topic["error_code"]}
        missing = {
            name: {"num_partitions": num_partitions, "replication_factor": num_replicas, "configs": dict(settings)}
            for name, settings in wanted.items()
            if name not in there
        }
        if missing:
            admin.create_topics(missing, wait_for_metadata=True)
    return list(missing)


@contextmanager
def _admin(config: KafkaConfig) -> Iterator[KafkaAdminClient]:
    try:
        admin = KafkaAdminClient(**config.client_settings(_ADMIN))
    except (kafka_errors.KafkaError, OSError) as error:
        raise unready(config, error) from error
    try:
        yield admin
    except (kafka_errors.KafkaError, OSError) as error:
        raise unready(config, error) from error
    finally:
        admin.close()


def unready(config: KafkaConfig, error: Exception) -> SourceUnready:
    """What a client's error is for us."""
    return SourceUnready(f"Kafka at {config.servers}: {type(error).__name__}: {error}")
