# The process that produces a sink's values to Kafka: what it answers for, the brokers have acknowledged.
from __future__ import annotations

import sys
from collections.abc import Sequence
from time import monotonic

import msgspec
from kafka import KafkaProducer
from kafka import errors as kafka_errors
from kafka.producer.future import FutureRecordMetadata

from stream.kafka_config import KafkaWriterSettings
from stream.writer import Outcome, Piece, Value, read_settings, run_writer

_GRACE_SECONDS = 5.0  # beyond the delivery timeout, by which every message should be answered for


class Producing:
    """Produces groups. After a failure the next group has a producer of its own: an idempotent one that has given up a
    message cannot vouch for what follows.

    kafka-python 3.0.12 may answer neither yes nor no for a message whose broker was killed under it, and such a
    producer cannot be closed either: so nothing waits without a deadline, and `is_stuck` says that its thread is left.
    """

    def __init__(self, settings: KafkaWriterSettings) -> None:
        self._settings = settings
        self._config = settings.producer
        self._producer: KafkaProducer | None = None
        self.is_stuck = False

    def write(self, group: Sequence[Piece]) -> list[Outcome]:
        """Send all of a group; each piece's outcome once the brokers have answered for all."""
        failure, sent = "", [list[FutureRecordMetadata]() for _ in group]
        try:
            if self._producer is None:
                self._producer = KafkaProducer(**self._config)
            for piece, futures in zip(group, sent, strict=True):
                futures.extend(self._send(self._producer, value) for value in piece.values)
        except (kafka_errors.KafkaError, OSError, RuntimeError, ValueError) as error:  # the latter two: settings
            failure = _not_taken(error)
        # Also after a failure: a producer with messages under way cannot be closed.
        deadline = monotonic() + float(self._config["delivery_timeout_ms"] or 0) / 1000 + _GRACE_SECONDS
        outcomes = [_outcome(futures, deadline) for futures in sent]
        if failure:
            outcomes = [failure] * len(group)
        if any(isinstance(outcome, str) for outcome in outcomes):
            self.close()
        return outcomes

    def close(self) -> None:
        """Leave the brokers."""
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.close(timeout=1)
            except kafka_errors.KafkaError:
                self.is_stuck = True

    def _send(self, producer: KafkaProducer, value: Value) -> FutureRecordMetadata:
        topic = self._settings.items_topic if value.is_item else self._settings.events_topic
        return producer.send(topic, value.data, key=value.key.encode() or None)


def _outcome(futures: Sequence[FutureRecordMetadata], deadline: float) -> Outcome:
    offsets, failure = dict[str, int](), ""
    for future in futures:
        try:
            there = future.get(timeout=max(0.0, deadline - monotonic()))
            offsets[f"{there.topic}-{there.partition}"] = there.offset + 1
        except kafka_errors.KafkaError as error:
            failure = _not_taken(error)
    return failure or offsets


def _not_taken(error: Exception) -> str:
    return f"Kafka does not take it: {type(error).__name__}: {error}"


def main() -> None:
    """Write until the sink is gone."""
    settings = msgspec.json.decode(read_settings(), type=KafkaWriterSettings)
    producing = Producing(settings)

    def write(group: Sequence[Piece]) -> list[Outcome]:
        if producing.is_stuck:
            sys.exit("a Kafka producer is stuck; the sink starts another process")
        return producing.write(group)

    run_writer(write, settings.grouping)
    producing.close()


if __name__ == "__main__":
    main()
