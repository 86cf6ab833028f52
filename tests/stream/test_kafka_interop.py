# Kafka's own console tools, which are not Python, write events and read a dead letter: the wire format is plain JSON.
from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import jgo
import pytest

from commands.kafka_local import java
from state.records import read_record
from state.store import Store
from tests.brokers import Cluster
from tests.fold_process import FoldProcess
from tests.stream.helpers import NOW, catalogue_of, view
from tests.stream.waiting import wait_until

_TOOLS = "org.apache.kafka:kafka-tools:4.3.1+org.slf4j:slf4j-simple:1.7.36"
_QUIET = ("-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error")


@pytest.fixture(scope="module")
def class_path() -> str:
    return os.pathsep.join(str(jar) for jar in jgo.build(_TOOLS).all_jars)


def run_tool(class_path: str, tool: str, *options: str, lines: str = "") -> str:
    """What a console tool printed, given these lines to read."""
    command = [java(), *_QUIET, "-cp", class_path, f"org.apache.kafka.tools.{tool}", *options]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kafkas_own_tools_write_events_and_read_the_dead_letter(
    broker: Cluster, class_path: str, tmp_path: Path
) -> None:
    config = broker.config()
    to_broker, with_keys = ("--bootstrap-server", broker.servers), ("--reader-property", "parse.key=true")
    poison = json.dumps({"type": "vieuw", "user_id": "u1", "item_id": "größer", "timestamp": NOW}, ensure_ascii=False)
    without_user = json.dumps({"type": "view", "item_id": "i2", "timestamp": NOW + 1})
    values = [json.dumps(view("u1", "i1")), without_user, poison]
    lines = "".join(f"trace:t{place},app:shop\tu1\t{value}\n" for place, value in enumerate(values))
    events = ("ConsoleProducer", *to_broker, "--topic", config.topics.events, *with_keys)
    run_tool(class_path, *events, "--reader-property", "parse.headers=true", lines=lines)
    item = json.dumps({"type": "item", "timestamp": NOW, "title": "one"})
    run_tool(
        class_path, "ConsoleProducer", *to_broker, "--topic", config.topics.items, *with_keys, lines=f"i1\t{item}\n"
    )
    fold = FoldProcess(tmp_path / "home", config)
    fold.start()
    try:
        wait_until(lambda: fold.num_folded() == 4 and fold.has_published())
        fold.end(signal.SIGTERM)
        with Store(tmp_path / "home" / "fold") as store, store.read() as txn:
            assert len(read_record(txn, store, b"u1").sequence.rows) == 2
            assert catalogue_of(store)["i1"].title == "one"
    finally:
        fold.end()
    topic = ("--topic", config.topics.dead_letters, "--from-beginning", "--max-messages", "1", "--timeout-ms", "30000")
    printed = run_tool(
        class_path, "consumer.ConsoleConsumer", *to_broker, *topic, "--formatter-property", "print.key=true"
    )
    key, _, value = printed.partition("\t")
    letter = json.loads(value)
    assert key == letter["id"] == f"{config.topics.events}-0-2-0"
    assert (letter["topic"], letter["partition"], letter["offset"]) == (config.topics.events, 0, 2)
    assert (letter["key"], letter["event"], letter["field"]) == ("u1", poison, "type")
    assert letter["reason"].startswith("unknown signal 'vieuw'; known are")
    assert letter["headers"] == [{"name": "trace", "value": "t2"}, {"name": "app", "value": "shop"}]
