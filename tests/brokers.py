# Real Kafka brokers for tests: the code of `runnel up --kafka local`, with kills.
from __future__ import annotations

import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from commands.kafka_local import Node, bootstrap, prepare_node
from serving.ports import free_ports
from stream.kafka_config import KafkaConfig, KafkaTopics
from stream.kafka_topics import describe_topics, make_topics
from stream.source import SourceUnready
from tests.stream.waiting import wait_until

READY_SECONDS = 120.0


class Cluster:
    """One node or several, each a process of its own."""

    def __init__(
        self,
        folder: Path,
        num_nodes: int = 1,
        properties: Mapping[str, str] | None = None,
        format_options: Sequence[str] = (),
    ) -> None:
        ports = free_ports(2 * num_nodes)
        self.nodes = [Node(k + 1, ports[2 * k], ports[2 * k + 1]) for k in range(num_nodes)]
        self.servers = bootstrap(self.nodes)
        self._folder = folder
        self._commands = [prepare_node(folder, node, self.nodes, properties, format_options) for node in self.nodes]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        for node in self.nodes:
            self.start(node)

    def start(self, node: Node) -> None:
        """Start a node that does not run."""
        with (self._folder / f"node-{node.number}.log").open("ab") as log:
            command = self._commands[node.number - 1]
            self._processes[node.number] = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self, node: Node) -> None:
        """SIGKILL."""
        self._end(node, signal.SIGKILL)

    def restart(self) -> None:
        """Kill all nodes and start them again."""
        for node in self.nodes:
            self.kill(node)
        for node in self.nodes:
            self.start(node)

    def suspend(self, node: Node) -> None:
        """SIGSTOP: it neither answers nor ends."""
        self._processes[node.number].send_signal(signal.SIGSTOP)

    def resume(self, node: Node) -> None:
        """SIGCONT."""
        self._processes[node.number].send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill what runs."""
        for node in self.nodes:
            self._end(node, signal.SIGKILL)

    def config(self, num_partitions: int = 1, num_folds: int = 1, **more: object) -> KafkaConfig:
        """Settings with topics of their own, made; waits until the brokers answer."""
        name = uuid.uuid4().hex[:12]
        names = {field: f"{field.replace('_', '-')}-{name}" for field in KafkaTopics.__dataclass_fields__}
        config = KafkaConfig(self.servers, KafkaTopics(**names), f"group-{name}", **more)  # type: ignore[arg-type]
        wait_until(lambda: _made(config, num_partitions, num_folds), READY_SECONDS)
        return config

    def _end(self, node: Node, number: signal.Signals) -> None:
        process = self._processes.pop(node.number, None)
        if process is not None:
            process.send_signal(number)
            process.wait()


def _made(config: KafkaConfig, num_partitions: int, num_folds: int) -> bool:
    try:
        make_topics(config, num_partitions, num_folds=num_folds)
        names = list(asdict(config.topics).values())
        return len(describe_topics(config, names)) == len(names)
    except SourceUnready:
        return False
