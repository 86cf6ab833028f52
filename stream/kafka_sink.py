# The sink of Kafka topics.
from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Mapping

from stream.kafka_config import KafkaConfig
from stream.process_sink import ProcessSink
from stream.sink import SinkConfig
from stream.writer import start_writer


class KafkaSink(ProcessSink):
    """Produces to the topics of events and of items, keyed by user and by item; acknowledged once all in-sync replicas
    have it. The values of a call may go to several partitions. Where no broker answers, calls are told so after some
    seconds (NotWritten), and later ones are tried again."""

    is_keyed = True

    def __init__(
        self,
        kafka: KafkaConfig,
        clock: Callable[[], int],
        config: SinkConfig | None = None,
        on_lost: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._kafka = kafka
        super().__init__(clock, config, on_lost)

    def start_writer(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """`stream.kafka_writer`, for these brokers."""
        return start_writer("stream.kafka_writer", self._kafka.writer_settings(self.grouping))

    def num_behind(self, folded: Mapping[str, int]) -> int:  # noqa: ARG002
        """0: what waits to be folded is Kafka's to hold."""
        return 0
