# Copies a store's deltas log to its Kafka topic, and resumes where the topic's end says.
from __future__ import annotations

import logging
from contextlib import closing, suppress
from pathlib import Path
from threading import Event
from time import monotonic

from kafka import KafkaProducer
from kafka import errors as kafka_errors

from state.deltas import DeltaGap, DeltaLog, split
from state.meta import get_version
from state.store import Store, StoreMissing
from stream.delta_places import Place, headers_of, last_place, partition_of
from stream.kafka_config import PRODUCING, KafkaConfig
from stream.kafka_topics import unready
from stream.sessions import IsOver, pause, run_sessions
from stream.shipped import note_shipped
from stream.source import SourceLost

_ANSWER_SECONDS = 15.0
_LOOK_SECONDS = 0.01
_NOTE_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Shipper:
    """One store's deltas to one partition, each version once but for those whose shipper was killed. One process at a
    time may ship a store."""

    def __init__(self, store: Store, config: KafkaConfig, name: str, key: str) -> None:
        """`name` is the store's among those that are followed, `key` what its messages carry. Raises SourceUnready
        where no broker answers, SourceLost where the topic holds what this store never made."""
        self._store, self._log, self._config, self._key = store, DeltaLog(store), config, key
        self._partition = partition_of(config, name)
        last = last_place(config, name)
        with store.read() as txn:
            version = get_version(txn, store, store.stage)
        if last is not None and last.version > version:
            raise SourceLost(
                f"{self._partition.topic} holds version {last.version} of {name}, and {store.path} is at {version}: "
                "the topic is of another store, or this one was put back. Delete the topic and make it again "
                "(`runnel topics`), then write a snapshot (`runnel snapshot`): nodes begin from it"
            )
        # A version of which only a part is there is sent again.
        whole = last is not None and last.chunk == last.num_chunks - 1
        self.version = 0 if last is None else last.version if whole else last.version - 1
        self._producer = _producer(config)

    def step(self, limit: int = 100) -> int:
        """Ship up to `limit` versions; how many, once the brokers have them. What the log has trimmed already is passed
        over: who follows finds the gap, and starts from a snapshot. Raises SourceUnready; drop the shipper then."""
        with self._store.read() as txn:
            try:
                found = list(self._log.read(txn, self.version, limit))
            except DeltaGap:
                self.version = self._log.first(txn) - 1
                found = list(self._log.read(txn, self.version, limit))
            stamps = self._log.stamps(txn, self.version, len(found))
        try:
            for (version, data), appended_at in zip(found, stamps, strict=True):
                self._send(version, data, appended_at)
                self.version = version
        except (kafka_errors.KafkaError, OSError) as error:
            raise unready(self._config, error) from error
        return len(found)

    def close(self) -> None:
        """Leave the brokers."""
        with suppress(kafka_errors.KafkaError):
            self._producer.close(timeout=1)

    def _send(self, version: int, data: bytes, appended_at: int) -> None:
        """One message after the other: where one of several under way expires, those behind it may still be taken."""
        messages = split(self._store.stage, version, data)
        for k, message in enumerate(messages):
            headers = headers_of(Place(self._key, version, k, len(messages), appended_at))
            topic, partition = self._partition
            sent = self._producer.send(topic, message, self._key.encode(), headers, partition)
            sent.get(timeout=_ANSWER_SECONDS)


def _producer(config: KafkaConfig) -> KafkaProducer:
    try:
        return KafkaProducer(**config.client_settings(PRODUCING, config.producer))
    except (kafka_errors.KafkaError, OSError) as error:
        raise unready(config, error) from error


def run_ship(path: Path, note: Path, stop: Event, config: KafkaConfig, name: str, key: str) -> None:
    """Ship the store at `path` until `stop` is set; `note` is the file that tells its stage how far (`shipped`)."""

    def session(is_over: IsOver) -> None:
        try:
            store = Store(path)
        except StoreMissing:  # its stage is about to make it
            pause(is_over, _LOOK_SECONDS)
            return
        with store, closing(Shipper(store, config, name, key)) as shipper:
            _log.info("shipping starts", extra={"version": shipper.version})
            noted, note_at = -1, 0.0
            while not (is_over() or store.is_outdated):
                if not shipper.step():
                    pause(is_over, _LOOK_SECONDS)
                if shipper.version > noted and monotonic() >= note_at:
                    noted, note_at = shipper.version, monotonic() + _NOTE_SECONDS
                    note_shipped(note, noted)

    run_sessions(path, stop, session)
