# A Kafka of one node for a benchmark, the one that `runnel up --kafka local` brings along.
from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from commands.kafka_local import Node, bootstrap, prepare_node
from serving.ports import free_ports
from stream.kafka_config import KafkaConfig, KafkaTopics
from stream.kafka_topics import make_topics
from stream.source import SourceUnready

_READY_SECONDS = 60.0


@contextmanager
def local_kafka(folder: Path, num_partitions: int = 1) -> Iterator[Callable[[str], KafkaConfig]]:
    """A broker while the block runs; called with a name it gives the settings of topics of that name."""
    node = Node(1, *free_ports(2))
    with (folder.with_suffix(".log")).open("wb") as log:
        process = subprocess.Popen(prepare_node(folder, node, [node]), stdout=log, stderr=log)
    try:
        yield lambda name: _with_topics(KafkaConfig(bootstrap([node]), _topics(name)), num_partitions)
    finally:
        process.terminate()
        process.wait()


def _topics(name: str) -> KafkaTopics:
    return KafkaTopics(**{field: f"{name}.{topic}" for field, topic in asdict(KafkaTopics()).items()})


def _with_topics(config: KafkaConfig, num_partitions: int) -> KafkaConfig:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            make_topics(config, num_partitions)
            return config
        except SourceUnready:
            if time.monotonic() > deadline:
                raise
