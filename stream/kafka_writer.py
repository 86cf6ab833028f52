# The process that produces a sink's values to Kafka: what it answers for, the brokers have acknowledged.
from __future__ import annotations

from collections.abc import Sequence

import msgspec
from kafka import KafkaProducer
from kafka import errors as kafka_errors
from kafka.producer.future import FutureRecordMetadata

from stream.kafka_config import ClientSettings, KafkaWriterSettings
from stream.writer import Outcome, Piece, Value, read_settings, run_writer

_OURS: ClientSettings = {
    "enable_idempotence": True,
    "acks": "all",
    "allow_auto_create_topics": False,
    "request_timeout_ms": 5_000,
    "delivery_timeout_ms": 10_000,  # then who waits is told that the brokers do not take it
    "max_block_ms": 5_000,
    "linger_ms": 0,  # a group is sent whole: there is nothing to wait for
    "batch_size": 256 * 1024,
    "max_request_size": 1_000_000,
}
_ANSWER_SECONDS = 60.0  # beyond any delivery timeout that makes sense while somebody waits


class Producing:
    """Produces groups. After a failure the next group has a producer of its own: an idempotent one that has given up a
    message cannot vouch for what follows."""

    def __init__(self, settings: KafkaWriterSettings) -> None:
        self._settings = settings
        self._producer: KafkaProducer | None = None

    def write(self, group: Sequence[Piece]) -> list[Outcome]:
        """Send all of a group; each piece's outcome once the brokers have answered for all."""
        try:
            if self._producer is None:
                self._producer = KafkaProducer(**{**_OURS, **self._settings.producer})
            sent = [[self._send(self._producer, value) for value in piece.values] for piece in group]
        except (kafka_errors.KafkaError, OSError) as error:
            self._give_up()
            return [f"Kafka does not take it: {type(error).__name__}: {error}"] * len(group)
        outcomes = [_outcome(futures) for futures in sent]
        if any(isinstance(outcome, str) for outcome in outcomes):
            self._give_up()
        return outcomes

    def close(self) -> None:
        """Leave the brokers."""
        if self._producer is not None:
            self._producer.close(timeout=5)

    def _send(self, producer: KafkaProducer, value: Value) -> FutureRecordMetadata:
        topic = self._settings.items_topic if value.is_item else self._settings.events_topic
        return producer.send(topic, value.data, key=value.key.encode() or None)

    def _give_up(self) -> None:
        if self._producer is not None:
            self._producer.close(timeout=0)
            self._producer = None


def _outcome(futures: Sequence[FutureRecordMetadata]) -> Outcome:
    offsets: dict[str, int] = {}
    for future in futures:
        try:
            there = future.get(timeout=_ANSWER_SECONDS)
        except kafka_errors.KafkaError as error:
            return f"Kafka does not take it: {type(error).__name__}: {error}"
        offsets[f"{there.topic}-{there.partition}"] = there.offset + 1
    return offsets


def main() -> None:
    """Write until the sink is gone."""
    settings = msgspec.json.decode(read_settings(), type=KafkaWriterSettings)
    producing = Producing(settings)
    run_writer(producing.write, settings.grouping)
    producing.close()


if __name__ == "__main__":
    main()
