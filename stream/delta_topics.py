# Deltas of stages read from Kafka topics: one partition a store, messages in the order of their versions.
"""A message is what `state.deltas.split` made of a delta, and fits any broker; its key and headers say which it is. A
shipper that was killed may have sent a version twice, or begun one and sent it again: a reader takes what follows the
version it stands at, and passes over the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import closing
from itertools import islice
from time import monotonic, sleep
from typing import NamedTuple

from kafka import KafkaConsumer
from kafka import errors as kafka_errors
from kafka.consumer.fetcher import ConsumerRecord

from state.deltas import DeltaGap, join
from stream.delta_places import READING, Place, PlaceFinder, last_place, partition_of, place_of
from stream.kafka_config import KafkaConfig
from stream.kafka_topics import connected, unready

_MAX_WAITING, _MAX_BYTES = 1_000, 64 << 20  # deltas of one store that are held; then the others are read alone
_NUM_STAMPS = 10_000
_LOOK_SECONDS = 0.01


class _Found(NamedTuple):
    version: int
    data: bytes
    appended_at: int


class TopicDeltas:
    """One store's deltas, as `state.follower.DeltaSource`."""

    def __init__(self, topics: DeltaTopics, name: str, key: str) -> None:
        """`key` is the one that the store's messages must have: a store of another name is not what is followed."""
        self._topics, self._name, self._key = topics, name, key
        self._found: deque[_Found] = deque()  # without gaps, the first follows on `_before`
        self._before = -1  # -1: the consumer stands anywhere
        self._num_bytes = 0  # in them
        self._parts: list[bytes] = []
        self._is_at_begin = False
        self._stamps: deque[tuple[int, int]] = deque(maxlen=_NUM_STAMPS)

    def read(self, after_version: int, limit: int) -> list[tuple[int, bytes]]:
        """As DeltaSource says: what has come so far, nothing where nothing has. Raises SourceUnready, and DeltaGap also
        where the messages are another store's."""
        if not self._drop(after_version):
            self._go_to(after_version)
        if not self._found:
            self._topics.wait(0.0)
        return [(found.version, found.data) for found in islice(self._found, limit)]

    def stamps(self, after_version: int, limit: int) -> list[int]:
        """As DeltaSource says, of what was read lately."""
        known = [*self._stamps, *((found.version, found.appended_at) for found in self._found)]
        return [stamp for version, stamp in known if version > after_version][:limit]

    def last(self) -> int:
        """As DeltaSource says. Raises SourceUnready."""
        place = last_place(self._topics.config, self._name)
        return 0 if place is None else place.version

    @property
    def wants_more(self) -> bool:
        """Whether messages should be fetched for it now."""
        return self._before >= 0 and len(self._found) < _MAX_WAITING and self._num_bytes < _MAX_BYTES

    def take(self, record: ConsumerRecord) -> bool:
        """A message of the partition, the next one; whether the one behind it follows. Raises DeltaGap."""
        if self._before < 0:  # it was fetched before that was forgotten
            return False
        place, last = place_of(record), self._found[-1].version if self._found else self._before
        if place.version <= last:
            return True
        if place.store != self._key:
            self.forget()
            raise DeltaGap(f"the deltas of {self._name} are those of a store {place.store!r}, not of {self._key!r}")
        if place.version > last + 1:
            self._miss(last, place.version)
            return False
        self._add(place, record.value)
        return True

    def _add(self, place: Place, part: bytes) -> None:
        if place.chunk == 0:
            self._parts.clear()
        if place.chunk != len(self._parts):
            return  # the rest of a version that is sent again from its begin
        self._parts.append(part)
        if len(self._parts) == place.num_chunks:
            self._found.append(_Found(place.version, join(self._parts), place.appended_at))
            self._num_bytes += len(self._found[-1].data)
            self._parts.clear()

    def forget(self) -> None:
        """Look up anew where to read on."""
        self._before, self._num_bytes = -1, 0
        self._found.clear()
        self._parts.clear()

    def _drop(self, up_to_version: int) -> bool:
        """Let go of what was read up to a version; whether what is left follows on it."""
        while self._found and self._found[0].version <= up_to_version:
            found = self._found.popleft()
            self._before, self._num_bytes = found.version, self._num_bytes - len(found.data)
            self._stamps.append((found.version, found.appended_at))
        return self._before == up_to_version

    def _go_to(self, after_version: int) -> None:
        self.forget()
        offset, begin = self._topics.seek(self._name, after_version)
        self._before, self._is_at_begin = after_version, offset == begin

    def _miss(self, last: int, version: int) -> None:
        """A version is not there where it should be: it may stand before what misled the search."""
        if self._is_at_begin:
            self.forget()
            raise DeltaGap(f"the oldest delta of {self._name} that Kafka holds is {version}, and {last + 1} is needed")
        self._parts.clear()
        self._topics.seek(self._name, -1)
        self._is_at_begin = True


class DeltaTopics:
    """The delta topics of a Kafka, a consumer for each store's partition: one that is full is not asked for a while,
    and one consumer that pauses partitions may never fetch them again (kafka-python 3.0.12). Not for several threads.
    """

    def __init__(self, config: KafkaConfig, keys: Mapping[str, str]) -> None:
        """`keys`: of the stores to be read, name → the key of their messages. Raises SourceUnready where no broker
        answers."""
        self.config = config
        self.sources = {name: TopicDeltas(self, name, key) for name, key in keys.items()}
        self._partitions = {name: partition_of(config, name) for name in keys}
        self._consumers: dict[str, KafkaConsumer] = {}
        settings = config.client_settings(READING, config.consumer)
        try:
            for name, partition in self._partitions.items():
                self._consumers[name] = connected(KafkaConsumer, config, settings)
                self._consumers[name].assign([partition])
        except BaseException:
            self.close()
            raise

    def wait(self, timeout_seconds: float) -> None:
        """Return once deltas have come, or at the timeout. Raises SourceUnready, DeltaGap."""
        deadline = monotonic() + timeout_seconds
        while True:
            have_come = [self._fetch(name) for name, source in self.sources.items() if source.wants_more]
            left = deadline - monotonic()
            if any(have_come) or left <= 0:
                return
            sleep(min(_LOOK_SECONDS, left))

    def seek(self, name: str, after_version: int) -> tuple[int, int]:
        """Read a store on behind a version; at which offset that is, and the oldest one. Raises SourceUnready."""
        partition = self._partitions[name]
        with closing(PlaceFinder(self.config, partition)) as finder:
            offset, begin = finder.offset_after(after_version), finder.bounds()[0]
        self._consumers[name].seek(partition, offset)
        return offset, begin

    def close(self) -> None:
        """Leave the brokers."""
        for consumer in self._consumers.values():
            consumer.close(autocommit=False)

    def _fetch(self, name: str) -> bool:
        """Whether messages of a store have come."""
        try:
            found = self._consumers[name].poll(0)
        except kafka_errors.OffsetOutOfRangeError:
            self.sources[name].forget()
            return True
        except (kafka_errors.KafkaError, OSError) as error:
            raise unready(self.config, error) from error
        for records in found.values():
            all(map(self.sources[name].take, records))  # up to the first that has nothing behind it
        return bool(found)
