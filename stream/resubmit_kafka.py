# Dead letters sent again to Kafka's topics, once what was wrong is right.
from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from time import monotonic

from kafka import KafkaProducer
from kafka import errors as kafka_errors
from kafka.producer.future import FutureRecordMetadata

from stream.dead_letters import DeadLetter
from stream.kafka_config import KafkaConfig
from stream.kafka_topics import connected, describe_topics
from stream.resubmit import Resubmitted, refusal

_GRACE_SECONDS = 5.0  # beyond the delivery timeout, by which every message should be answered for


def resubmit_to_kafka(kafka: KafkaConfig, letters: Iterable[DeadLetter]) -> list[Resubmitted]:
    """Produce the letters' events, as they came and in their order, each to the partition that its message was in, with
    its key and headers; returns when the brokers have answered for all. Raises SourceUnready where none answers."""
    topics = describe_topics(kafka, [kafka.topics.events, kafka.topics.items])
    partitions = [f"{name}-{number}" for name, topic in topics.items() for number in topic.partitions]
    settings = kafka.writer_settings().producer
    producer: KafkaProducer = connected(KafkaProducer, kafka, settings)
    try:
        sending = list(_send(producer, letters, partitions))
        deadline = monotonic() + float(settings["delivery_timeout_ms"] or 0) / 1000 + _GRACE_SECONDS
        return [Resubmitted(identity, _failure(sent, deadline)) for identity, sent in sending]
    finally:
        with suppress(kafka_errors.KafkaError):  # what was not delivered is told already
            producer.close(timeout=1)


def _send(
    producer: KafkaProducer, letters: Iterable[DeadLetter], partitions: list[str]
) -> Iterator[tuple[str, FutureRecordMetadata | str]]:
    """Each letter's identity, and what the brokers are going to say, or why it is not sent."""
    trouble = ""  # with the brokers: they are not waited for again with each letter
    for letter in letters:
        sent: FutureRecordMetadata | str = refusal(letter, partitions) or trouble
        if not sent:
            topic, _, number = letter.partition.rpartition("-")
            headers = [(name, value or b"") for name, value in letter.headers]
            try:
                sent = producer.send(topic, letter.raw, letter.key, headers, int(number))
            except kafka_errors.KafkaError as error:
                sent = trouble = _told(error)
        yield letter.identity, sent


def _failure(sent: FutureRecordMetadata | str, deadline: float) -> str:
    if isinstance(sent, str):
        return sent
    try:
        sent.get(timeout=max(0.0, deadline - monotonic()))
    except kafka_errors.KafkaError as error:
        return _told(error)
    return ""


def _told(error: Exception) -> str:
    return f"Kafka does not take it: {type(error).__name__}: {error}"
