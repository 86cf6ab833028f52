# Kafka as a source: what a broker does to a fold's reading, and what a message may be.
from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource

from state.catalogue import read_items
from state.dictionary import Dictionary
from state.offsets import put_offsets
from state.records import read_record
from state.store import Store
from stream.dead_letters import read_dead_letters
from stream.fold import FoldStage
from stream.kafka_config import KafkaConfig, KafkaTopics
from stream.kafka_source import KafkaSource
from stream.kafka_topics import describe_topics, make_topics
from stream.losses import accept_loss
from stream.run import run_fold
from stream.source import SourceLost, SourceUnready
from tests.brokers import Cluster
from tests.stream.waiting import wait_until


class Loop:
    """Topics of their own, a producer, and a fold stage that can be opened again."""

    def __init__(self, broker: Cluster, path: Path, num_partitions: int = 1) -> None:
        self.broker, self.path = broker, path
        self.config = broker.config(num_partitions)
        self.events, self.items = self.config.topics.events, self.config.topics.items
        self.producer = KafkaProducer(bootstrap_servers=broker.servers)
        self._stack = ExitStack()

    def open(self, config: KafkaConfig | None = None) -> FoldStage:
        """The stage, from what its store holds."""
        self.let_go()
        self.store = self._stack.enter_context(Store(self.path, "fold", writer=True))
        self.source = KafkaSource(config or self.config)
        self._stack.callback(self.source.close)
        return FoldStage(self.store, self.source)

    def send(self, *values: object, topic: str = "", key: str | None = None, partition: int | None = None) -> None:
        """Values, each as JSON unless it is bytes."""
        data = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
        told = None if key is None else key.encode()
        for sent in [self.producer.send(topic or self.events, each, told, partition=partition) for each in data]:
            sent.get(30)

    def fold(self, stage: FoldStage, num_messages: int) -> None:
        """Until so many more messages are folded."""
        done = 0

        def is_done() -> bool:
            nonlocal done
            done += stage.step(0.1).num_messages
            return done >= num_messages

        wait_until(is_done)
        assert done == num_messages

    def sequence(self, user: str) -> int:
        """Entries in a user's record."""
        with self.store.read() as txn:
            return len(read_record(txn, self.store, user.encode()).sequence.rows)

    def accept_loss(self) -> dict[str, tuple[int, int]]:
        """What a person's decision moves."""
        self.let_go()
        with Store(self.path, "fold", writer=True) as store, closing(KafkaSource(self.config)) as source:
            return accept_loss(store, source)

    def let_go(self) -> None:
        """Of source and store."""
        self._stack.close()

    def close(self) -> None:
        self.let_go()
        self.producer.close()


@pytest.fixture
def loop(broker: Cluster, tmp_path: Path) -> Iterator[Loop]:
    loop = Loop(broker, tmp_path / "fold")
    yield loop
    loop.close()


def view(user: str, item: str, at: int = 0) -> dict[str, object]:
    return {"type": "view", "user_id": user, "item_id": item, "timestamp": 1_763_649_000_000 + at}


@pytest.mark.parametrize("codec", [None, "gzip", "lz4", "snappy", "zstd"])
def test_one_event_or_an_array_of_them_compressed_or_not_is_folded_once(loop: Loop, codec: str | None) -> None:
    loop.producer.close()
    loop.producer = KafkaProducer(bootstrap_servers=loop.broker.servers, compression_type=codec, linger_ms=20)
    loop.send(view("u", "a"), [view("u", "b", 1), view("u", "c", 2)], key="u")
    stage = loop.open()
    loop.fold(stage, 2)
    assert (loop.sequence("u"), stage.offsets) == (3, {f"{loop.events}-0": 2, f"{loop.items}-0": 0})
    loop.send(view("u", "d", 3), key="u")
    loop.fold(loop.open(), 1)
    assert loop.sequence("u") == 4


def test_the_stamp_is_the_brokers_and_not_the_producers(loop: Loop) -> None:
    loop.producer.send(loop.events, b"x", timestamp_ms=1).get(30)
    source = KafkaSource(loop.config)
    for partition in source.partitions():
        source.seek(partition, 0)
    source.wait(30)
    assert source.poll(1, 0)[0].received_at > 1_700_000_000_000
    source.close()


def test_a_topic_whose_stamps_are_the_producers_is_refused_with_the_setting(loop: Loop) -> None:
    admin = KafkaAdminClient(bootstrap_servers=loop.broker.servers)
    stamped = {"num_partitions": 1, "replication_factor": 1, "configs": {"message.timestamp.type": "CreateTime"}}
    admin.create_topics({f"{loop.events}.own": stamped}, wait_for_metadata=True)
    admin.close()
    with pytest.raises(SourceLost, match=r"set message\.timestamp\.type=LogAppendTime"):
        KafkaSource(replace(loop.config, topics=KafkaTopics(f"{loop.events}.own", loop.items)))
    loop.send(view("u", "old"), topic=f"{loop.events}.own")
    log_append_time = ConfigResource("TOPIC", f"{loop.events}.own", {"message.timestamp.type": "LogAppendTime"})
    admin = KafkaAdminClient(bootstrap_servers=loop.broker.servers)
    admin.alter_configs([log_append_time])
    admin.close()
    config = replace(loop.config, topics=KafkaTopics(f"{loop.events}.own", loop.items))
    loop.send(view("u", "new"), topic=f"{loop.events}.own")
    loop.fold(loop.open(config), 2)
    with loop.store.read() as txn:
        letters = [(letter.offset, letter.reason) for letter in read_dead_letters(txn, loop.store)]
    assert [offset for offset, _ in letters] == [0]
    assert "producer's stamp" in letters[0][1]
    assert loop.sequence("u") == 1


def test_a_key_stands_for_the_id_that_an_event_does_not_name(loop: Loop) -> None:
    event = view("", "a")
    del event["user_id"]
    loop.send(event, key="u7")
    loop.fold(loop.open(), 1)
    assert loop.sequence("u7") == 1


def test_the_topic_of_items_is_read_too_and_an_empty_value_deletes(loop: Loop) -> None:
    loop.send({"type": "item", "timestamp": 1, "title": "old"}, topic=loop.items, key="i1")
    now = 1_763_649_000_000
    for item in ("i1", "i2"):
        loop.send({"type": "item", "item_id": item, "timestamp": now, "title": item}, topic=loop.items, key=item)
    loop.producer.send(loop.items, None, b"i2").get(30)
    loop.fold(loop.open(), 4)
    with loop.store.read() as txn:
        names = Dictionary(loop.store)
        names.refresh(txn)
        items = {item.item_id: item.deleted for item in read_items(txn, loop.store).values()}
        letters = list(read_dead_letters(txn, loop.store))
    assert items == {"i1": False, "i2": True}
    assert [letter.field for letter in letters] == ["timestamp"]


def test_a_users_event_in_the_topic_of_items_is_a_dead_letter(loop: Loop) -> None:
    loop.send([view("u", "a"), {"type": "vieuw"}], topic=loop.items, key="x")
    loop.fold(loop.open(), 1)
    with loop.store.read() as txn:
        letters = [(letter.index, letter.field) for letter in read_dead_letters(txn, loop.store)]
    assert sorted(letters) == [(0, "type"), (1, "type")]
    assert loop.sequence("u") == 0


def test_what_a_transaction_took_back_is_never_read(loop: Loop) -> None:
    with_transactions = KafkaProducer(bootstrap_servers=loop.broker.servers, transactional_id=f"t-{loop.events}")
    with_transactions.init_transactions()
    for user, end in (("gone", with_transactions.abort_transaction), ("kept", with_transactions.commit_transaction)):
        with_transactions.begin_transaction()
        with_transactions.send(loop.events, json.dumps(view(user, "a")).encode()).get(30)
        end()
    with_transactions.close()
    stage = loop.open()
    loop.fold(stage, 1)
    assert (loop.sequence("gone"), loop.sequence("kept")) == (0, 1)
    wait_until(lambda: stage.step(0.1).num_messages == 0 and passes_to_the_end(loop, stage))


def passes_to_the_end(loop: Loop, stage: FoldStage) -> bool:
    stage.pass_over()
    return stage.offsets == loop.source.end_offsets()


def test_folds_share_the_partitions_of_events_and_each_reads_all_items(broker: Cluster) -> None:
    config = broker.config(5)
    sources = [KafkaSource(config, fold, 2) for fold in range(2)]
    events, items = (
        [f"{topic}-{number}" for number in range(5)] for topic in (config.topics.events, config.topics.items)
    )
    assert [source.partitions() for source in sources] == [events[0::2] + items, events[1::2] + items]
    for source in sources:
        source.close()


def test_lag_tools_see_how_far_a_fold_is_and_it_never_starts_from_there(loop: Loop) -> None:
    partition = TopicPartition(loop.events, 0)

    def committed() -> int | None:
        consumer = KafkaConsumer(bootstrap_servers=loop.broker.servers, group_id=loop.config.group)
        try:
            return consumer.committed(partition)  # type: ignore[no-any-return]
        finally:
            consumer.close()

    assert committed() is None  # which has the broker make its topic of groups
    loop.send(view("u", "a"), view("u", "b", 1))
    stage = loop.open()
    loop.fold(stage, 2)
    loop.source.keep(stage.offsets)
    assert committed() == 2
    fresh = Loop.__new__(Loop)
    fresh.__dict__.update(loop.__dict__, path=loop.path.with_name("other"), _stack=ExitStack())
    fresh.fold(fresh.open(), 2)
    assert fresh.sequence("u") == 2
    fresh._stack.close()


def test_a_topic_that_is_missing_is_named_with_what_makes_it(loop: Loop) -> None:
    with pytest.raises(SourceLost, match=r"has no topic 'nowhere': `runnel topics` makes it"):
        KafkaSource(KafkaConfig(loop.config.servers, KafkaTopics("nowhere", loop.items)))


def test_brokers_that_do_not_answer_are_told_as_such_within_seconds() -> None:
    config = KafkaConfig("127.0.0.1:9", client={"bootstrap_timeout_ms": 500})
    with pytest.raises(SourceUnready, match=r"Kafka at 127\.0\.0\.1:9"):
        KafkaSource(config)


def test_a_topic_that_was_deleted_and_made_again_is_another_until_its_loss_is_accepted(loop: Loop) -> None:
    loop.send(view("u", "a"), view("u", "b", 1), view("u", "c", 2))
    loop.fold(loop.open(), 3)
    admin = KafkaAdminClient(bootstrap_servers=loop.broker.servers)
    admin.delete_topics([loop.events])
    wait_until(lambda: loop.events not in describe_topics(loop.config, [loop.events]))
    with pytest.raises(SourceLost, match="has no topic"):
        loop.open()
    make_topics(loop.config, 1)
    admin.close()
    loop.producer.close()
    loop.producer = KafkaProducer(bootstrap_servers=loop.broker.servers)
    for number in range(5):  # more than there were: the offset alone would tell nothing
        loop.send(view("v", f"i{number}", number))
    with pytest.raises(SourceLost, match="deleted and made again"):
        loop.open()
    assert loop.accept_loss() == {f"{loop.events}-0": (3, 0)}
    loop.fold(loop.open(), 5)
    assert (loop.sequence("u"), loop.sequence("v")) == (3, 5)


def test_messages_that_retention_took_stop_the_fold_until_their_loss_is_accepted(loop: Loop) -> None:
    loop.send(*(view("u", f"i{number}", number) for number in range(3)))
    loop.fold(loop.open(), 3)
    loop.send(*(view("u", f"i{number}", number) for number in range(3, 9)))
    admin = KafkaAdminClient(bootstrap_servers=loop.broker.servers)
    admin.delete_records({TopicPartition(loop.events, 0): 6})
    admin.close()
    with pytest.raises(SourceLost, match="holds offsets 6 to 9, and 3 is next"):
        loop.open()
    assert loop.accept_loss() == {f"{loop.events}-0": (3, 6)}
    assert loop.accept_loss() == {}
    loop.fold(loop.open(), 3)
    assert loop.sequence("u") == 6


def test_messages_that_retention_takes_under_a_running_fold_stop_it(loop: Loop) -> None:
    one_at_a_time = replace(loop.config, consumer={"max_partition_fetch_bytes": 1, "fetch_max_bytes": 1})
    for number in range(3):
        loop.send(view("u", f"i{number}", number))
    stage = loop.open(one_at_a_time)
    loop.fold(stage, 3)
    for number in range(3, 40):
        loop.send(view("u", f"i{number}", number))
    admin = KafkaAdminClient(bootstrap_servers=loop.broker.servers)
    admin.delete_records({TopicPartition(loop.events, 0): 39})
    admin.close()

    def fails() -> bool:
        try:
            return stage.step(0.1).num_messages < 0
        except SourceLost as error:
            return error.go_on_at == {f"{loop.events}-0": 39}

    wait_until(fails)
    assert 3 <= loop.sequence("u") < 39


def test_new_partitions_end_a_session_and_the_next_one_reads_them(loop: Loop) -> None:
    stage = loop.open(replace(loop.config, look_seconds=0))
    admin = KafkaAdminClient(bootstrap_servers=loop.broker.servers)
    admin.create_partitions({loop.events: 3})
    admin.close()
    wait_until(lambda: len(describe_topics(loop.config, [loop.events])[loop.events].partitions) == 3)
    loop.source.keep(stage.offsets)
    assert loop.source.is_outdated
    stage = loop.open()
    loop.send(view("u", "a"), partition=2)
    loop.fold(stage, 1)
    assert {name: offset for name, offset in stage.offsets.items() if offset} == {f"{loop.events}-2": 1}


def test_a_topic_that_was_cut_back_stays_lost_while_it_grows_and_what_came_since_is_read(loop: Loop) -> None:
    loop.send(*(view("u", f"i{number}", number) for number in range(4)))
    loop.fold(loop.open(), 4)
    loop.let_go()
    with Store(loop.path, "fold", writer=True) as store, store.write() as txn:
        put_offsets(txn, store, {f"{loop.events}-0": 6})  # as if two more had been there before an unclean election
    found = end_of_a_session(loop)
    assert "the topic was cut back" in found
    loop.send(*(view("v", f"i{number}", number) for number in range(5)))  # past the offset that is stored
    assert end_of_a_session(loop) == found
    assert loop.accept_loss() == {f"{loop.events}-0": (6, 4)}
    loop.fold(loop.open(), 5)
    assert (loop.sequence("u"), loop.sequence("v")) == (4, 5)


def end_of_a_session(loop: Loop) -> str:
    """What stops a fold process."""
    messages: list[str] = []
    stop = Event()

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())
            stop.set()

    handler = Noting()
    logger = logging.getLogger("stream.sessions")
    logger.addHandler(handler)
    try:
        run_fold(loop.path.parent, stop, kafka=loop.config)
    finally:
        logger.removeHandler(handler)
    return messages[0].split("s: ", 1)[1].split(". Accept")[0]
