# Kafka topics as an event source: positions come from the fold's own store, and from nowhere else.
from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from time import monotonic

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.fetcher import ConsumerRecord

from stream.kafka_config import ClientSettings, KafkaConfig
from stream.kafka_topics import describe_topics, unready
from stream.source import Message, SourceLost, SourceUnready

_LOG_APPEND_TIME = 1  # of a record's `timestamp_type`
_MAX_RECORDS = 5_000  # of one fetch from the client's buffer
_OURS: ClientSettings = {
    "enable_auto_commit": False,
    "auto_offset_reset": "none",  # a position that cannot be had is an error; a guessed one loses or repeats
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "max_poll_records": _MAX_RECORDS,
    "fetch_max_wait_ms": 100,
    "request_timeout_ms": 10_000,
}
_WHAT_TO_DO = (
    "Restore stores that stand where it still reaches (`runnel up --from-snapshot DIR`), or accept that they are lost: "
    "`runnel fold --accept-loss`"
)
_log = logging.getLogger(__name__)


class KafkaSource:
    """The partitions of the events topic that are one fold's out of several, and all of the topic of items.

    Fold i of n reads partition p where p modulo n is i; nothing is handed over while it runs. What is committed is told
    to the group, for lag tools alone.
    """

    def __init__(self, config: KafkaConfig, fold: int = 0, num_folds: int = 1) -> None:
        """Raises SourceUnready where no broker answers, SourceLost where a topic does not exist."""
        self._config, self._fold, self._num_folds = config, fold, num_folds
        self._waiting: deque[Message] = deque()
        self._topic_ids, self._partitions = self._find()
        self._looked_at = monotonic()
        settings = config.client_settings(_OURS, {"group_id": config.group}, config.consumer)
        try:
            self._consumer = KafkaConsumer(**settings)
            self._consumer.assign(list(self._partitions.values()))
        except (kafka_errors.KafkaError, OSError) as error:
            raise unready(config, error) from error

    def identity(self) -> dict[str, str]:
        """Topic → its id."""
        return self._topic_ids

    def partitions(self) -> list[str]:
        """TOPIC-NUMBER of each."""
        return list(self._partitions)

    def seek(self, partition: str, offset: int) -> None:
        """Read from `offset` on (0: from the oldest message held). Raises SourceLost for an offset that the topic does
        not hold any more, or does not hold yet: events would be lost unseen."""
        begin, end = self.bounds(partition)
        if offset and not begin <= offset <= end:
            what = "were deleted before they were read" if offset < begin else "are not there: the topic was cut back"
            raise SourceLost(
                f"{partition} holds offsets {begin} to {end}, and {offset} is next: messages {what}. {_WHAT_TO_DO}"
            )
        self._consumer.seek(self._partitions[partition], offset or begin)

    def bounds(self, partition: str) -> tuple[int, int]:
        """The oldest offset held, and the one that the next message will get."""
        found = self._partitions.get(partition)
        if found is None:
            raise SourceLost(f"Kafka has no partition {partition!r}; it has {', '.join(self._partitions)}")
        try:
            return self._consumer.beginning_offsets([found])[found], self._consumer.end_offsets([found])[found]
        except (kafka_errors.KafkaError, OSError) as error:
            raise unready(self._config, error) from error

    def wait(self, timeout_seconds: float) -> None:
        """Return once there are messages, or at the timeout."""
        if not self._waiting:
            self._fetch(timeout_seconds)

    def poll(self, max_messages: int, timeout_seconds: float) -> list[Message]:
        """The next messages; waits up to the timeout where there is none. Raises SourceLost and SourceUnready."""
        self.wait(timeout_seconds)
        return [self._waiting.popleft() for _ in range(min(max_messages, len(self._waiting)))]

    def end_offsets(self) -> dict[str, int]:
        """Partition to the offset its next message will get. Raises SourceUnready."""
        try:
            ends = self._consumer.end_offsets(list(self._partitions.values()))
        except (kafka_errors.KafkaError, OSError) as error:
            raise unready(self._config, error) from error
        return {name: ends[found] for name, found in self._partitions.items()}

    def keep(self, offsets: Mapping[str, int]) -> None:
        """Every few seconds, with what is committed: tell the group, and look whether the topics are as they were.
        Raises SourceLost where one is gone or is another, SourceUnready where there are partitions that nobody reads
        yet (opened anew, the source has them)."""
        told = {
            self._partitions[name]: OffsetAndMetadata(offset, "", -1)
            for name, offset in offsets.items()
            if name in self._partitions
        }
        if told:
            self._consumer.commit_async(told, callback=_note_commit)
        if monotonic() - self._looked_at < self._config.look_seconds:
            return
        self._looked_at = monotonic()
        topic_ids, partitions = self._find()
        if topic_ids != self._topic_ids:
            raise SourceLost(f"another topic is there by the name of one that was read before: {topic_ids}")
        if partitions.keys() != self._partitions.keys():
            raise SourceUnready(f"new partitions: {', '.join(partitions.keys() - self._partitions.keys())}")

    def close(self) -> None:
        """Leave the brokers."""
        self._consumer.close(autocommit=False)

    def _find(self) -> tuple[dict[str, str], dict[str, TopicPartition]]:
        """Topics' ids, and the partitions to read by name, as of now."""
        events, items = self._config.topics.events, self._config.topics.items
        found = describe_topics(self._config, [events, items])
        for topic in (events, items):
            if topic not in found:
                raise SourceLost(
                    f"Kafka at {self._config.servers} has no topic {topic!r}: `runnel topics` makes it; where it was "
                    "deleted, what it held is gone"
                )
        mine = [number for number in found[events].partitions if number % self._num_folds == self._fold]
        partitions = [TopicPartition(events, number) for number in mine]
        partitions += [TopicPartition(items, number) for number in found[items].partitions]
        topic_ids = {topic: found[topic].topic_id for topic in (events, items)}
        return topic_ids, {f"{each.topic}-{each.partition}": each for each in partitions}

    def _fetch(self, timeout_seconds: float) -> None:
        try:
            found = self._consumer.poll(round(1000 * max(0.0, timeout_seconds)))
        except (kafka_errors.OffsetOutOfRangeError, kafka_errors.LogTruncationError) as error:
            raise SourceLost(f"Kafka does not hold what comes next: {error}. {_WHAT_TO_DO}") from error
        except (kafka_errors.KafkaError, OSError) as error:
            raise unready(self._config, error) from error
        for partition, records in found.items():
            if records[0].timestamp_type != _LOG_APPEND_TIME:
                raise SourceLost(
                    f"topic {partition.topic!r} has message.timestamp.type=CreateTime; Runnel judges events by the "
                    "log's own stamp: set it to LogAppendTime"
                )
            name, is_items = f"{partition.topic}-{partition.partition}", partition.topic == self._config.topics.items
            self._waiting.extend(_message(name, is_items, record) for record in records)


def _message(partition: str, is_items: bool, record: ConsumerRecord) -> Message:
    key = record.key if record.key is None else bytes(record.key)
    return Message(partition, record.offset, record.timestamp, record.value or b"", key, is_items)


def _note_commit(_: Mapping[TopicPartition, OffsetAndMetadata], outcome: object) -> None:
    if isinstance(outcome, Exception):
        _log.warning("the group was not told how far the fold is: %s", outcome)
