# Runnel's topics on a Kafka: what they are like, and how they are made.
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import NamedTuple, TypeVar

from kafka import KafkaAdminClient, OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource

from stream.kafka_config import ClientSettings, KafkaConfig
from stream.source import SourceUnready

_Client = TypeVar("_Client")
_OURS: ClientSettings = {"request_timeout_ms": 10_000}
_STAMP = "message.timestamp.type"
LOG_APPEND_TIME = "LogAppendTime"  # received_at: events are judged by it
_EVENTS = {_STAMP: LOG_APPEND_TIME}
_DELTAS = {"retention.ms": str(24 * 3_600_000)}  # who stood still for longer starts from a snapshot
_ITEMS = {_STAMP: LOG_APPEND_TIME, "cleanup.policy": "compact"}
_WEEK_MS = 7 * 24 * 3_600_000
# As long as a store keeps them: they hold what users sent. One partition, so that readers have them in order.
_DEAD_LETTERS = {_STAMP: LOG_APPEND_TIME, "cleanup.policy": "delete", "retention.ms": str(_WEEK_MS)}


class Topic(NamedTuple):
    """What a broker says of a topic."""

    topic_id: str  # another one where it was deleted and made anew
    partitions: list[int]


class TopicAdmin:
    """Asks and tells the brokers about topics, over connections that it keeps. Every method raises SourceUnready where
    no broker answers, or not about one of the topics."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._admin: KafkaAdminClient = connected(KafkaAdminClient, config, config.client_settings(_OURS))

    def close(self) -> None:
        """Leave the brokers."""
        self._admin.close()

    def topics(self, names: Sequence[str]) -> dict[str, Topic]:
        """Those that exist."""
        found: dict[str, Topic] = {}
        with self._asking():
            for topic in self._admin.describe_topics(list(names)):
                error = kafka_errors.for_code(topic["error_code"])
                if error is kafka_errors.NoError:
                    numbers = sorted(each["partition_index"] for each in topic["partitions"])
                    found[topic["name"]] = Topic(str(topic["topic_id"]), numbers)
                elif error is not kafka_errors.UnknownTopicOrPartitionError:
                    raise error(f"topic {topic['name']!r}")
        return found

    def stamps(self, names: Sequence[str]) -> dict[str, str]:
        """What the stamps of messages are, by topic: LogAppendTime or CreateTime."""
        resources = [ConfigResource("TOPIC", name, [_STAMP]) for name in names]
        with self._asking():
            found = self._admin.describe_configs(resources, config_filter="all")
        by_topic = {name: settings for topics in found.values() for name, settings in topics.items()}
        return {name: str(settings[_STAMP]["value"]) for name, settings in by_topic.items()}

    def make_topics(self, num_partitions: int, num_replicas: int = -1, num_folds: int = 1) -> list[str]:
        """Make those of our topics that are missing; which. Events and items have `num_partitions`; `num_replicas` -1:
        the brokers' default."""
        topics = self._config.topics
        wanted = {
            topics.events: (num_partitions, _EVENTS),
            topics.items: (num_partitions, _ITEMS),
            topics.fold_deltas: (num_folds, _DELTAS),
            topics.learn_deltas: (1, _DELTAS),
            topics.dead_letters: (1, _DEAD_LETTERS),
        }
        there = self.topics(list(wanted))
        missing = {
            name: {"num_partitions": number, "replication_factor": num_replicas, "configs": dict(settings)}
            for name, (number, settings) in wanted.items()
            if name not in there
        }
        with self._asking():
            if missing:
                self._admin.create_topics(missing, wait_for_metadata=True)
        if topics.fold_deltas not in missing:
            self.grow(topics.fold_deltas, num_folds)
        return list(missing)

    def grow(self, name: str, num_partitions: int) -> None:
        """Have a topic have at least so many partitions."""
        if len(self.topics([name])[name].partitions) < num_partitions:
            with self._asking():
                self._admin.create_partitions({name: num_partitions})

    def tell_group(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Note how far the folds are, for tools that show lag."""
        told = {partition: OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}
        with self._asking():
            for partition, error in self._admin.alter_group_offsets(self._config.group, told).items():
                if error is not kafka_errors.NoError:
                    raise error(f"group {self._config.group!r}, {partition}")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (kafka_errors.KafkaError, OSError) as error:
            raise unready(self._config, error) from error


def describe_topics(config: KafkaConfig, names: Sequence[str]) -> dict[str, Topic]:
    """As `TopicAdmin.topics`."""
    with closing(TopicAdmin(config)) as admin:
        return admin.topics(names)


def make_topics(config: KafkaConfig, num_partitions: int, num_replicas: int = -1, num_folds: int = 1) -> list[str]:
    """As `TopicAdmin.make_topics`."""
    with closing(TopicAdmin(config)) as admin:
        return admin.make_topics(num_partitions, num_replicas, num_folds)


def grow_topic(config: KafkaConfig, name: str, num_partitions: int) -> None:
    """As `TopicAdmin.grow`."""
    with closing(TopicAdmin(config)) as admin:
        admin.grow(name, num_partitions)


def connected(kind: type[_Client], config: KafkaConfig, settings: ClientSettings) -> _Client:
    """A consumer or an admin client of kafka-python. Raises SourceUnready, and leaves nothing behind then: one that
    finds no broker in its constructor has a thread and sockets already, and cannot be closed by its `close`."""
    client = kind.__new__(kind)
    try:
        client.__init__(**settings)  # type: ignore[misc]
    except (kafka_errors.KafkaError, OSError) as error:
        if (inner := getattr(client, "_client", None)) is not None:
            inner.close()
        raise unready(config, error) from error
    return client


def unready(config: KafkaConfig, error: Exception) -> SourceUnready:
    """What a client's error is for us."""
    return SourceUnready(f"Kafka at {config.servers}: {type(error).__name__}: {error}")
