# The dead letters that a topic holds, as any consumer reads them.
from __future__ import annotations

import json

from kafka import KafkaConsumer, TopicPartition

from stream.kafka_config import KafkaConfig
from tests.stream.helpers import JsonEvent


def published(config: KafkaConfig) -> list[JsonEvent]:
    """All of them, repeats too, oldest first."""
    partition = TopicPartition(config.topics.dead_letters, 0)
    consumer = KafkaConsumer(bootstrap_servers=config.servers, enable_auto_commit=False)
    consumer.assign([partition])
    consumer.seek_to_beginning()
    end = consumer.end_offsets([partition])[partition]
    found: list[JsonEvent] = []
    while consumer.position(partition) < end:
        for records in consumer.poll(1000).values():
            found += [json.loads(record.value) for record in records]
    consumer.close()
    return found
