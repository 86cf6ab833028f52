# runnel dead-letters: what broke a rule is shown, and sent again to where it came from.
from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from time import time

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource

from commands.dead_letters import dead_letters
from commands.errors import CommandError
from state.offsets import get_totals
from state.records import read_record
from state.store import Store
from stream.dead_letters import DeadLetter
from stream.event import EventLimits
from stream.fold import FoldConfig, FoldStage
from stream.kafka_config import KafkaConfig
from stream.kafka_source import KafkaSource
from stream.log import EventLog, LogSource
from stream.resubmit_kafka import resubmit_to_kafka
from stream.source import EventSource
from tests.brokers import Cluster
from tests.stream.helpers import NOW, JsonEvent, value, view
from tests.stream.waiting import wait_until

_HOUR_MS = 3_600_000
TOO_LARGE = value(view("u", "b", context={"x": "x" * 70_000}))


def fold_from(home: Path, source: EventSource, config: FoldConfig | None = None) -> None:
    """Fold all that a source has."""
    with Store(home / "fold", "fold", writer=True) as store:
        stage = FoldStage(store, source, config=config)
        wait_until(lambda: stage.step(0.1).num_messages == 0 and stage.offsets == source.end_offsets())


def fold_log(home: Path) -> None:
    with closing(EventLog(home / "log")) as log:
        fold_from(home, LogSource(log))


def end_offset(home: Path) -> int:
    with closing(EventLog(home / "log")) as log:
        return log.end_offset()


def num_entries(home: Path, user: str) -> int:
    with Store(home / "fold") as store, store.read() as txn:
        return len(read_record(txn, store, user.encode()).sequence.rows)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of a log whose clock was an hour late: an event that came too early, one of no kind and one that is too large."""
    with closing(EventLog(tmp_path / "log")) as log:
        log.append([value(view("u", "a"), {"type": "vieuw"}), TOO_LARGE], NOW - _HOUR_MS)
    fold_log(tmp_path)
    return tmp_path


def listed(home: Path, capsys: pytest.CaptureFixture[str]) -> list[JsonEvent]:
    capsys.readouterr()
    dead_letters(home, as_json=True)
    letters: list[JsonEvent] = json.loads(capsys.readouterr().out)["dead_letters"]
    return letters


def test_letters_are_listed_newest_first_with_the_id_by_which_they_are_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [(letter["id"], letter["field"], letter["is_cut"]) for letter in listed(home, capsys)]
    assert found == [("events-0-1-0", "", True), ("events-0-0-1", "type", False), ("events-0-0-0", "timestamp", False)]
    dead_letters(home, limit=2)
    shown = capsys.readouterr().out
    assert "events-0-1-0" in shown
    assert "events-0-0-0" not in shown


def test_an_event_is_sent_again_to_the_homes_log_and_counts_once_however_often(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert num_entries(home, "u") == 0
    for _ in range(2):
        dead_letters(home, resubmit=["events-0-0-0"])
        assert capsys.readouterr().out == "sent again: events-0-0-0\n"
    fold_log(home)
    assert num_entries(home, "u") == 1
    with Store(home / "fold") as store, store.read() as txn:
        assert get_totals(txn, store)["view", "duplicate"] == 1


def test_all_are_sent_oldest_first_and_what_is_not_sent_is_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CommandError, match="1 of 3 dead letters were not sent again"):
        dead_letters(home, resubmit=["all"], as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["sent"] == ["events-0-0-0", "events-0-0-1"]
    assert told["not_sent"] == {"events-0-1-0": "it was too large to be kept whole"}
    fold_log(home)
    assert num_entries(home, "u") == 1
    assert listed(home, capsys)[0]["id"] == "events-0-3-0"  # what still breaks a rule is a dead letter again


def test_nothing_is_sent_where_a_letter_that_is_named_is_not_kept(home: Path) -> None:
    with pytest.raises(CommandError, match=r"no dead letter 'events-0-9-0' is kept; nothing was sent"):
        dead_letters(home, resubmit=["events-0-0-0", "events-0-9-0"])
    assert end_offset(home) == 2


@pytest.fixture
def config(broker: Cluster, monkeypatch: pytest.MonkeyPatch) -> KafkaConfig:
    """A Kafka whose topics the settings name."""
    config = broker.config(3)
    settings = {"topics": asdict(config.topics), "client": {"bootstrap_timeout_ms": 1_000}}
    monkeypatch.setenv("RUNNEL_KAFKA", json.dumps(settings))
    return config


@pytest.fixture
def too_early(config: KafkaConfig, tmp_path: Path) -> bytes:
    """An event ten minutes ahead, which a fold has refused, in a partition that its key does not lead to."""
    event = value({**view("u", "a"), "timestamp": int(time() * 1000) + 600_000})
    producer = KafkaProducer(bootstrap_servers=config.servers)
    producer.send(config.topics.events, event, b"\xff", [("trace", b"t1")], partition=_other(producer, config)).get(30)
    producer.close()
    with closing(KafkaSource(config)) as source:
        fold_from(tmp_path, source)
    return event


def _other(producer: KafkaProducer, config: KafkaConfig) -> int:
    there = producer.send(config.topics.events, b"[]", b"\xff").get(30).partition
    return (int(there) + 1) % 3


def test_an_event_goes_back_to_its_partition_with_key_and_headers_and_is_folded_once_the_rule_is_wider(
    config: KafkaConfig, too_early: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (letter,) = listed(tmp_path, capsys)
    dead_letters(tmp_path, resubmit=["all"], kafka=config.servers)
    assert capsys.readouterr().out == f"sent again: {letter['id']}\n"
    partition = TopicPartition(config.topics.events, int(str(letter["partition"])[-1]))
    consumer = KafkaConsumer(bootstrap_servers=config.servers)
    consumer.assign([partition])
    consumer.seek(partition, 1)
    (records,) = consumer.poll(30_000).values()
    consumer.close()
    assert [(each.key, each.value, list(each.headers)) for each in records] == [
        (b"\xff", too_early, [("trace", b"t1")])
    ]
    with closing(KafkaSource(config)) as source:
        fold_from(tmp_path, source, FoldConfig(events=EventLimits(max_ahead_ms=_HOUR_MS)))
    assert num_entries(tmp_path, "u") == 1


@pytest.mark.usefixtures("too_early")
def test_where_no_broker_answers_that_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"Kafka at 127\.0\.0\.1:9"):
        dead_letters(tmp_path, resubmit=["all"], kafka="127.0.0.1:9")


@pytest.mark.usefixtures("too_early")
def test_an_event_of_a_kafka_is_not_written_to_a_log_of_the_home(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="a Kafka that this home reads is named by --kafka"):
        dead_letters(tmp_path, resubmit=["all"])
    EventLog(tmp_path / "log").close()
    with pytest.raises(CommandError, match="1 of 1 dead letters were not sent again"):
        dead_letters(tmp_path, resubmit=["all"])
    assert end_offset(tmp_path) == 0


def test_each_letter_that_kafka_cannot_be_given_is_named_and_the_others_are_sent(broker: Cluster) -> None:
    config = broker.config()
    events, items = config.topics.events, config.topics.items
    partitions = (f"{events}-0", f"{events}-7", "elsewhere-0", f"{items}-0", f"{items}-0")
    letters = [DeadLetter(name, k, 0, "", "", b"x", 0, b"k", is_cut=k == 4) for k, name in enumerate(partitions)]
    done = [each.failure for each in resubmit_to_kafka(config, letters)]
    assert (done[0], done[3]) == ("", "")
    assert done[1:3] == [f"it came from {name}, and this log has {events}-0, {items}-0" for name in partitions[1:3]]
    assert done[4] == "it was too large to be kept whole"
    with closing(KafkaSource(config)) as source:
        assert source.end_offsets() == {f"{events}-0": 1, f"{items}-0": 1}


def test_what_the_brokers_do_not_take_is_named(broker: Cluster) -> None:
    config = broker.config()
    admin = KafkaAdminClient(bootstrap_servers=broker.servers)
    admin.alter_configs([ConfigResource("TOPIC", config.topics.events, {"max.message.bytes": "500"})])
    admin.close()
    letters = [DeadLetter(f"{config.topics.events}-0", 0, 0, "", "", b"x" * 900, 0, b"k")]
    (done,) = resubmit_to_kafka(config, letters)
    assert done.failure.startswith("Kafka does not take it: ")
