# Kafka topics as an event source: positions come from the fold's own store, and from nowhere else.
from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from time import monotonic

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.fetcher import ConsumerRecord

from stream.kafka_config import ClientSettings, KafkaConfig
from stream.kafka_topics import LOG_APPEND_TIME, TopicAdmin, connected, unready
from stream.source import Message, SourceLost, SourceUnready

_LOG_APPEND_TIME = 1  # of a record's `timestamp_type`
_POSITION_MS = 1_000  # to ask the client for one that it has
_SILENT_SECONDS = 30.0  # the group is not told for so long where its broker did not take it
_OURS: ClientSettings = {
    "enable_auto_commit": False,
    "auto_offset_reset": "none",  # a position that cannot be had is an error; a guessed one loses or repeats
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "max_poll_records": 5_000,
    "max_partition_fetch_bytes": 4 << 20,  # what a commit takes, or a fold far behind commits more often than it must
    "fetch_max_wait_ms": 100,
    "request_timeout_ms": 10_000,
}
_STAMPS = "Runnel judges events by the log's own stamps: set message.timestamp.type=LogAppendTime"
_log = logging.getLogger(__name__)


class KafkaSource:
    """The partitions of the events topic that are one fold's out of several, and all of the topic of items.

    Fold i of n reads partition p where p modulo n is i; nothing is handed over while it runs. It is in no group: the
    one that is told what is committed is for lag tools, and nothing is read from it.
    """

    def __init__(self, config: KafkaConfig, fold: int = 0, num_folds: int = 1) -> None:
        """Raises SourceUnready where no broker answers, SourceLost where a topic does not exist or its messages have
        their producers' stamps."""
        self._config, self._fold, self._num_folds = config, fold, num_folds
        self._waiting: deque[Message] = deque()
        self.is_outdated = False
        self._admin = TopicAdmin(config)
        try:
            self._topic_ids, self._partitions = self._find()
            self._require_stamps()
            self._consumer: KafkaConsumer = connected(
                KafkaConsumer, config, config.client_settings(_OURS, config.consumer)
            )
        except BaseException:
            self._admin.close()
            raise
        self._consumer.assign(list(self._partitions.values()))
        self._look_at = monotonic() + config.look_seconds
        self._tell_at = 0.0

    def identity(self) -> dict[str, str]:
        """Topic → its id."""
        return self._topic_ids

    def partitions(self) -> list[str]:
        """TOPIC-NUMBER of each."""
        return list(self._partitions)

    def seek(self, partition: str, offset: int | None) -> int:
        """Read from `offset` on, None: from the oldest message held; where that is. Raises SourceLost for an offset
        that the topic does not hold any more, or does not hold yet: events would be lost unseen."""
        begin, end = self.bounds(partition)
        if offset is None:
            offset = begin
        if not begin <= offset <= end:
            what = "were deleted before they were read" if offset < begin else "are not there: the topic was cut back"
            lost = {partition: min(max(offset, begin), end)}
            raise SourceLost(f"{partition} holds offsets {begin} to {end}, and {offset} is next: messages {what}", lost)
        self._consumer.seek(self._partitions[partition], offset)
        return offset

    def bounds(self, partition: str) -> tuple[int, int]:
        """The oldest offset held, and the one that the next message will get."""
        found = self._partitions.get(partition)
        if found is None:
            raise SourceLost(f"Kafka has no partition {partition!r}; it has {', '.join(self._partitions)}")
        try:
            return self._consumer.beginning_offsets([found])[found], self._consumer.end_offsets([found])[found]
        except (kafka_errors.KafkaError, KeyError, OSError) as error:  # KeyError: it has no leader just now
            raise unready(self._config, error) from error

    def wait(self, timeout_seconds: float) -> None:
        """Return once there are messages, or at the timeout."""
        if not self._waiting:
            self._fetch(timeout_seconds)

    def poll(self, max_messages: int, timeout_seconds: float) -> list[Message]:
        """The next messages; waits up to the timeout where there is none. Raises SourceLost and SourceUnready."""
        self.wait(timeout_seconds)
        return [self._waiting.popleft() for _ in range(min(max_messages, len(self._waiting)))]

    def passed(self) -> dict[str, int]:
        """Where each partition is read on once all messages given have been folded: beyond the last of them where marks
        of transactions follow it. Nothing while messages wait here."""
        if self._waiting:
            return {}
        found = {name: self._consumer.position(each, _POSITION_MS) for name, each in self._partitions.items()}
        return {name: offset for name, offset in found.items() if offset is not None}

    def end_offsets(self) -> dict[str, int]:
        """Partition to the offset its next message will get. Raises SourceUnready."""
        return {name: self.bounds(name)[1] for name in self._partitions}

    def keep(self, offsets: Mapping[str, int]) -> dict[str, int]:
        """Every few seconds, with what is committed: tell the group, and look whether the topics are as they were; the
        end offsets, of partitions that were read from. Raises SourceLost where a topic is gone or is another,
        SourceUnready where no broker answers. With new partitions the source is outdated."""
        if monotonic() >= self._look_at:
            self._look_at = monotonic() + self._config.look_seconds
            self._look()
        if monotonic() >= self._tell_at:
            self._tell(offsets)
        ends = {name: self._consumer.highwater(each) for name, each in self._partitions.items()}
        return {name: end for name, end in ends.items() if end is not None}

    def close(self) -> None:
        """Leave the brokers."""
        self._consumer.close(autocommit=False)
        self._admin.close()

    def _look(self) -> None:
        topic_ids, partitions = self._find()
        if topic_ids != self._topic_ids:
            raise SourceLost(f"another topic is there by the name of one that was read before: {topic_ids}")
        self.is_outdated = partitions.keys() != self._partitions.keys()

    def _tell(self, offsets: Mapping[str, int]) -> None:
        try:
            told = {self._partitions[name]: offset for name, offset in offsets.items() if name in self._partitions}
            self._admin.tell_group(told)
        except SourceUnready as error:
            self._tell_at = monotonic() + _SILENT_SECONDS
            _log.warning("lag tools are not told how far the fold is: %s", error)

    def _find(self) -> tuple[dict[str, str], dict[str, TopicPartition]]:
        """Topics' ids, and the partitions to read by name, as of now."""
        events, items = self._config.topics.events, self._config.topics.items
        found = self._admin.topics([events, items])
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

    def _require_stamps(self) -> None:
        for topic, stamp in self._admin.stamps(list(self._topic_ids)).items():
            if stamp != LOG_APPEND_TIME:
                raise SourceLost(f"topic {topic!r} has message.timestamp.type={stamp}. {_STAMPS}")

    def _fetch(self, timeout_seconds: float) -> None:
        try:
            found = self._consumer.poll(round(1000 * max(0.0, timeout_seconds)))
        except (kafka_errors.OffsetOutOfRangeError, kafka_errors.LogTruncationError) as error:
            raise SourceLost(f"Kafka does not hold what comes next: {error}", self._cut(error)) from error
        except (kafka_errors.KafkaError, OSError) as error:
            raise unready(self._config, error) from error
        for partition, records in found.items():
            name, is_items = f"{partition.topic}-{partition.partition}", partition.topic == self._config.topics.items
            self._waiting.extend(_message(name, is_items, record) for record in records)

    def _cut(self, error: kafka_errors.KafkaError) -> dict[str, int]:
        """Where to go on, by partition, if what is missing is given up: as of now, before more comes."""
        if isinstance(error, kafka_errors.LogTruncationError):
            known = {each: where.offset for each, where in error.divergent_offsets.items() if where is not None}
            names = {f"{each.topic}-{each.partition}": each for each in error.divergent_offsets}
            return {name: known.get(each, self.bounds(name)[0]) for name, each in names.items()}
        asked = {f"{each.topic}-{each.partition}": offset for each, offset in error.args[0].items()}
        bounds = {name: self.bounds(name) for name in asked}
        return {name: min(max(offset, bounds[name][0]), bounds[name][1]) for name, offset in asked.items()}


def _message(partition: str, is_items: bool, record: ConsumerRecord) -> Message:
    key = record.key if record.key is None else bytes(record.key)
    if record.timestamp_type != _LOG_APPEND_TIME:  # of a time before the topic was set so
        fault = f"the message has its producer's stamp. {_STAMPS}"
        return Message(partition, record.offset, 0, record.value or b"", key, is_items, fault, record.headers)
    return Message(partition, record.offset, record.timestamp, record.value or b"", key, is_items, "", record.headers)
