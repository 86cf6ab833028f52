# Dead letters on their way to their topic: each at least once, whatever is killed or away, as JSON that anyone reads.
from __future__ import annotations

import json
import logging
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from signal import SIGTERM
from threading import Event

import pytest
from kafka import KafkaProducer

from state.store import Store
from stream.dead_letter_topic import DeadLetterTopic, encode_letter, next_to_publish
from stream.dead_letters import DeadLetter, DeadLetterConfig
from stream.fold import FoldConfig
from stream.kafka_topics import make_topics
from stream.writer import Outcome, Value
from tests.brokers import Cluster
from tests.fold_process import FoldProcess
from tests.stream.helpers import fold, value, view
from tests.stream.published import published
from tests.stream.waiting import wait_until

LETTER = DeadLetter("runnel.events-3", 17, 0, "type", "unknown", b'{"a":"\xc3\xbc"}', 1_763_649_000_123, b"u1")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "fold", "fold", writer=True) as store:
        yield store


class Brokers:
    """What a topic holds, as (identity, event), and how the next batches are answered: with an outcome each, None by a
    broker that is killed after it took the batch; then all are taken."""

    def __init__(self, *answers: Outcome | None) -> None:
        self.taken: list[str] = []
        self.batches = 0
        self._answers = list(answers)

    def publish(self, values: list[Value]) -> Outcome:
        answer = self._answers.pop(0) if self._answers else dict[str, int]()
        if not isinstance(answer, str):
            self.taken += [value.key for value in values]
        self.batches += 1
        return "killed" if answer is None else answer


class Fold:
    """Publishing, started again and again."""

    def __init__(self, store: Store, brokers: Brokers) -> None:
        self._store, self._brokers = store, brokers
        self.start()

    def start(self) -> None:
        """As a process that was killed begins."""
        self._topic, self._now = DeadLetterTopic(self._store, self._brokers.publish), 0.0

    def send(self) -> None:
        """Until the brokers have answered once more; what they said is not noted yet."""
        before = self._brokers.batches
        self._topic.look(self._now)
        wait_until(lambda: self._brokers.batches > before)

    def note(self) -> None:
        """What they said, and nothing is sent: the time for that has not come."""
        self._topic.close()
        self._now += 5.0


def poison(number: int) -> bytes:
    return b"poison %d" % number


def position(store: Store) -> int:
    with store.read() as txn:
        return next_to_publish(txn, store)


send, note, start = Fold.send, Fold.note, Fold.start
Steps = tuple[Callable[[Fold], None], ...]
CASES: dict[str, tuple[tuple[Outcome | None, ...], Steps, int]] = {
    "nothing happens": ((), (send, note), 1),
    "killed before it is sent": ((), (start, send, note), 1),
    "killed after the brokers took it, before that was noted": ((), (send, start, send, note), 2),
    "killed twice so": ((), (send, start, send, start, send, note), 3),
    "killed after it was noted": ((), (send, note, start), 1),
    "brokers away at first": (("away", "away"), (send, note, send, note, send, note), 1),
    "brokers killed after they took it": ((None,), (send, note, send, note), 2),
}


@pytest.mark.parametrize("case", CASES)
def test_each_letter_is_published_whatever_is_killed_and_a_repeat_has_the_same_identity(
    case: str, store: Store
) -> None:
    answers, steps, times = CASES[case]
    fold(store, [poison(0), value(view("u", "a")), poison(2)])
    brokers = Brokers(*answers)
    process = Fold(store, brokers)
    for step in steps:
        step(process)
    assert brokers.taken == ["values-0-0-0", "values-0-2-0"] * times
    assert position(store) == 2


def test_a_batch_that_is_not_answered_holds_nothing_up_and_later_letters_follow(store: Store) -> None:
    answered, brokers = Event(), Brokers()

    def publish(values: list[Value]) -> Outcome:
        answered.wait(60)
        return brokers.publish(values)

    topic = DeadLetterTopic(store, publish)
    for number in range(5):
        fold(store, [poison(place) for place in range(number + 1)])  # one more than the store has folded
        topic.look(float(number))
    assert brokers.taken == []
    answered.set()

    def is_done() -> bool:
        topic.look(9.0)
        return position(store) == 5

    wait_until(is_done)
    assert brokers.taken == [f"values-0-{number}-0" for number in range(5)]


def test_brokers_that_did_not_take_a_batch_are_asked_again_after_five_seconds(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    fold(store, [poison(0)])
    brokers = Brokers("away")
    topic = DeadLetterTopic(store, brokers.publish)

    def is_told() -> bool:
        topic.look(1.0)
        return "dead letters wait to be published: away" in caplog.text

    wait_until(is_told)
    for now, batches in ((5.9, 1), (6.0, 2)):
        topic.look(now)
        topic.close()
        assert brokers.batches == batches


def test_letters_that_their_bounds_dropped_first_are_told(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    fold(store, [poison(0)])
    brokers = Brokers("away")
    process = Fold(store, brokers)
    process.send()
    process.note()
    fold(store, [poison(number) for number in range(8)], FoldConfig(dead_letters=DeadLetterConfig(max_letters=3)))
    with caplog.at_level(logging.WARNING):
        process.send()
        process.note()
    assert brokers.taken == [f"values-0-{number}-0" for number in (5, 6, 7)]
    assert "5 dead letters were dropped before" in caplog.text


def test_what_was_dropped_before_there_was_a_topic_is_no_loss(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    fold(store, [poison(number) for number in range(8)], FoldConfig(dead_letters=DeadLetterConfig(max_letters=3)))
    brokers = Brokers()
    process = Fold(store, brokers)
    process.send()
    process.note()
    assert len(brokers.taken) == 3
    assert caplog.text == ""


def test_a_letter_is_plain_json() -> None:
    assert json.loads(encode_letter(LETTER)) == {
        "id": "runnel.events-3-17-0",
        "stage": "fold",
        "topic": "runnel.events",
        "partition": 3,
        "offset": 17,
        "index": 0,
        "received_at": 1_763_649_000_123,
        "field": "type",
        "reason": "unknown",
        "key": "u1",
        "event": '{"a":"ü"}',
        "is_cut": False,
        "headers": [],
    }


def test_what_is_no_text_is_told_in_base64_by_another_name() -> None:
    headers = (("trace", b"\xff"), ("empty", None))
    told = json.loads(encode_letter(DeadLetter("t-0", 0, 0, "", "", b"\xfe", 0, b"\xfd", headers)))
    assert (b64decode(told["event_base64"]), b64decode(told["key_base64"])) == (b"\xfe", b"\xfd")
    assert not told.keys() & {"event", "key"}
    assert told["headers"] == [{"name": "trace", "value_base64": "/w=="}, {"name": "empty", "value": None}]


@pytest.mark.parametrize("raw", [b"\0" * 400_000, b"\xff" * 800_000, b"x" * 1_000_000])
def test_a_letter_that_no_broker_would_take_is_cut(raw: bytes) -> None:
    data = encode_letter(DeadLetter("t-0", 0, 0, "", "\1" * 70_000, raw, 0))
    assert len(data) < 1_000_000
    assert json.loads(data)["is_cut"] is True


def test_letters_reach_a_real_topic_once_where_nothing_is_killed(broker: Cluster, tmp_path: Path) -> None:
    config = broker.config()
    process = FoldProcess(tmp_path / "home", config)
    producer = KafkaProducer(bootstrap_servers=broker.servers)
    try:
        for place in range(3):  # sent while it is down, and it is stopped and started between
            for data in (poison(place), value(view("u", f"i{place}"), {"type": "vieuw"})):
                producer.send(config.topics.events, data, b"u").get(30)
            process.start()
            wait_until(lambda: process.num_folded() == 2 * place + 2 and process.has_published())  # noqa: B023
            process.end(SIGTERM)
    finally:
        process.end()
        producer.close()
    assert [(letter["offset"], letter["index"]) for letter in published(config)] == [
        place for first in (0, 2, 4) for place in ((first, 0), (first + 1, 1))
    ]


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_fold_goes_on_without_the_topic_and_publishes_all_once_it_is_there_also_after_a_kill(
    is_killed: bool, broker: Cluster, tmp_path: Path
) -> None:
    made = broker.config()
    config = replace(made, topics=replace(made.topics, dead_letters=f"{made.topics.dead_letters}-late"))
    process = FoldProcess(tmp_path / "home", config)
    producer = KafkaProducer(bootstrap_servers=broker.servers)
    process.start()
    try:
        for number in range(20):
            producer.send(config.topics.events, poison(number), b"u").get(30)
            wait_until(lambda: process.num_folded() == number + 1)  # noqa: B023
        assert not process.has_published()
        if is_killed:
            process.end()
        make_topics(config, 1)
        if is_killed:
            process.start()
        wait_until(process.has_published)
    finally:
        process.end()
        producer.close()
    assert [letter["event"] for letter in published(config)] == [f"poison {number}" for number in range(20)]
