# Where in its partition of a topic a delta stands.
from __future__ import annotations

from contextlib import closing
from typing import NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.fetcher import ConsumerRecord

from state.follower import LEARN
from stream.kafka_config import ClientSettings, KafkaConfig
from stream.kafka_topics import connected, unready
from stream.source import SourceLost

READING: ClientSettings = {
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "allow_auto_create_topics": False,
    "fetch_max_wait_ms": 100,
    "request_timeout_ms": 10_000,
}
_ONE_MESSAGE: ClientSettings = {"max_partition_fetch_bytes": 1024, "max_poll_records": 1}  # the first comes in any case
_PATIENCE_MS = 10_000  # for a message that is there


class Place(NamedTuple):
    """Which message of a delta this is, as its headers say, and whose."""

    store: str  # "learn", or which fold of how many: "fold-0/2"
    version: int
    chunk: int  # from 0
    num_chunks: int
    appended_at: int  # to the store's own log, milliseconds


def partition_of(config: KafkaConfig, name: str) -> TopicPartition:
    """Where the deltas of a store are: LEARN, or a fold's name."""
    if name == LEARN:
        return TopicPartition(config.topics.learn_deltas, 0)
    return TopicPartition(config.topics.fold_deltas, int(name.removeprefix("fold-")))


def headers_of(place: Place) -> list[tuple[str, bytes]]:
    """A place as headers; the store's name is the message's key."""
    chunk = b"%d/%d" % (place.chunk, place.num_chunks)
    return [("version", b"%d" % place.version), ("chunk", chunk), ("appended_at", b"%d" % place.appended_at)]


def place_of(record: ConsumerRecord) -> Place:
    """What key and headers of a message say. Raises SourceLost where it is no shipper's."""
    try:
        headers = {name: value.decode() for name, value in record.headers}
        chunk, _, num_chunks = headers["chunk"].partition("/")
        key = bytes(record.key or b"").decode()
        return Place(key, int(headers["version"]), int(chunk), int(num_chunks), int(headers["appended_at"]))
    except (KeyError, ValueError, AttributeError) as error:
        where = f"{record.topic}-{record.partition}, offset {record.offset}"
        raise SourceLost(f"{where} is no delta of a shipper's: {error!r}. Nothing else may go to that topic") from error


class PlaceFinder:
    """Looks single messages of one partition up. Every method raises SourceUnready where no broker answers."""

    def __init__(self, config: KafkaConfig, partition: TopicPartition) -> None:
        self._config, self._partition = config, partition
        settings = config.client_settings(READING | _ONE_MESSAGE, config.consumer)
        self._consumer: KafkaConsumer = connected(KafkaConsumer, config, settings)
        self._consumer.assign([partition])

    def bounds(self) -> tuple[int, int]:
        """The oldest offset held, and the one that the next message will get."""
        try:
            partitions = [self._partition]
            begin = self._consumer.beginning_offsets(partitions)[self._partition]
            return begin, self._consumer.end_offsets(partitions)[self._partition]
        except (kafka_errors.KafkaError, KeyError, OSError) as error:  # KeyError: it has no leader just now
            raise unready(self._config, error) from error

    def last(self) -> Place | None:
        """Of the newest message, None where there is none."""
        begin, end = self.bounds()
        return self._at(end - 1) if begin < end else None

    def first(self) -> Place | None:
        """Of the oldest message, None where there is none."""
        begin, end = self.bounds()
        return self._at(begin) if begin < end else None

    def offset_after(self, version: int) -> int:
        """Where the first message of a greater version is, the end where there is none. Versions grow but for what was
        sent twice; a message that came late may mislead this, and never to before the begin."""
        low, high = self.bounds()
        while low < high:
            middle = (low + high) // 2
            if self._at(middle).version > version:
                high = middle
            else:
                low = middle + 1
        return high

    def close(self) -> None:
        """Leave the brokers."""
        self._consumer.close(autocommit=False)

    def _at(self, offset: int) -> Place:
        try:
            self._consumer.seek(self._partition, offset)
            found = self._consumer.poll(_PATIENCE_MS).get(self._partition, [])
        except (kafka_errors.KafkaError, OSError) as error:
            raise unready(self._config, error) from error
        if not found:
            raise unready(self._config, TimeoutError(f"no message at offset {offset} of {self._partition}"))
        return place_of(found[0])


def last_place(config: KafkaConfig, name: str) -> Place | None:
    """Of the newest message of a store, None where there is none. Raises SourceUnready."""
    with closing(PlaceFinder(config, partition_of(config, name))) as finder:
        return finder.last()
