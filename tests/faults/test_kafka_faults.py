# What befalls a fold on a real Kafka: kills, brokers that go, a cut network, long absences, hostile messages.
from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError

from commands.kafka_local import bootstrap
from serving.ports import free_ports
from state.records import read_record
from state.store import Store
from stream.dead_letters import read_dead_letters
from stream.kafka_config import ClientSettings, KafkaConfig
from stream.kafka_sink import KafkaSink
from stream.kafka_topics import connected
from stream.sink import SinkError, Value
from stream.source import SourceUnready
from tests.brokers import Cluster
from tests.faults.tcp_proxy import TcpProxy
from tests.fold_process import FoldProcess
from tests.stream.helpers import JsonEvent, random_events, view
from tests.stream.waiting import wait_until

BATCH = 20
PATIENT: ClientSettings = {"delivery_timeout_ms": 3_000, "request_timeout_ms": 2_000, "max_block_ms": 3_000}


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, TcpProxy]]:
    """A broker of this module's own that clients reach through a proxy."""
    port = free_ports(1)[0]
    cluster = Cluster(
        tmp_path_factory.mktemp("kafka"), properties={"advertised.listeners": f"CLIENTS://127.0.0.1:{port}"}
    )
    proxy = TcpProxy(port, cluster.nodes[0].port)
    yield cluster, proxy
    proxy.close()
    cluster.close()


@contextmanager
def load(config: KafkaConfig, seed: int) -> Iterator[None]:
    """Events of all kinds in a thread, each batch tried again until the brokers have it, until the block ends."""
    stop = threading.Event()

    async def run() -> None:
        sink, events = KafkaSink(config, lambda: 0), iter(random_events(20_000, seed))
        while not stop.is_set() and (batch := list(islice(events, BATCH))):
            values = [_value(event) for event in batch]
            while True:
                try:
                    await sink.append(*values)
                    break
                except SinkError:
                    if not sink.is_alive:
                        sink = KafkaSink(config, lambda: 0)
        sink.close()

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(asyncio.run, run())
        try:
            yield
        finally:
            stop.set()
            sending.result()


def _value(event: JsonEvent) -> Value:
    data = json.dumps(event).encode()
    if str(event["type"]).startswith("item"):
        return Value(data, str(event["item_id"]), is_item=True)
    return Value(data, str(event["user_id"]))


class Scene(NamedTuple):
    """What a fault may befall."""

    cluster: Cluster
    proxy: TcpProxy
    fold: FoldProcess


def kill_fold(scene: Scene) -> None:
    scene.fold.end()
    scene.fold.start()


def pause_fold(scene: Scene) -> None:
    scene.fold.send_signal(signal.SIGSTOP)
    threading.Event().wait(3.0)  # what lasts is the fault itself
    scene.fold.send_signal(signal.SIGCONT)


def kill_broker(scene: Scene) -> None:
    scene.cluster.restart()


def cut_network(scene: Scene) -> None:
    scene.proxy.cut()
    threading.Event().wait(2.0)
    scene.proxy.mend()


def kill_both(scene: Scene) -> None:
    scene.fold.end()
    scene.cluster.restart()
    scene.fold.start()


Fault = Callable[[Scene], None]
FAULTS: list[Fault] = [kill_fold, pause_fold, kill_broker, cut_network, kill_both]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_after_a_fault_under_load_the_store_is_that_of_a_run_without_it(
    fault: Fault, proxied: tuple[Cluster, TcpProxy], tmp_path: Path
) -> None:
    cluster, proxy = proxied
    config = cluster.config(3, producer=PATIENT)
    fold = FoldProcess(tmp_path / "home", config)
    fold.start()
    try:
        with load(config, seed=len(fault.__name__)):
            for _ in range(2):
                before = fold.num_folded()
                wait_until(lambda: fold.num_folded() > before + 200, 120)  # noqa: B023
                fault(Scene(cluster, proxy, fold))
            before = fold.num_folded()
            wait_until(lambda: fold.num_folded() > before, 120)
        fold.require_exact()
    finally:
        fold.end()


def test_of_three_brokers_each_is_killed_in_turn_the_active_controller_among_them(tmp_path: Path) -> None:
    """Every node may be the controller; whichever is, is so until its own turn comes."""
    cluster = Cluster(tmp_path / "kafka", 3)
    try:
        config = cluster.config(3, producer=PATIENT)
        fold = FoldProcess(tmp_path / "home", config)
        fold.start()
        try:
            with load(config, seed=3):
                for node in cluster.nodes:
                    before = fold.num_folded()
                    wait_until(lambda: fold.num_folded() > before + 100, 120)  # noqa: B023
                    cluster.kill(node)
                    before = fold.num_folded()
                    wait_until(lambda: fold.num_folded() > before + 300, 120)  # noqa: B023
                    cluster.start(node)
                    own = replace(config, servers=bootstrap([node]))  # the others may not have missed it yet
                    wait_until(lambda: in_sync(own) == 3, 120)  # noqa: B023
            fold.require_exact()
        finally:
            fold.end()
    finally:
        cluster.close()


def in_sync(config: KafkaConfig) -> int:
    """The fewest replicas of a partition that are in sync; 0 while no broker answers."""
    try:
        admin = connected(KafkaAdminClient, config, config.client_settings())
    except SourceUnready:
        return 0
    try:
        topics = admin.describe_topics([config.topics.events])
    except KafkaError:
        return 0
    finally:
        admin.close()
    return min((len(partition["isr_nodes"]) for topic in topics for partition in topic["partitions"]), default=0)


@pytest.fixture
def producer(broker: Cluster) -> Iterator[KafkaProducer]:
    made = KafkaProducer(bootstrap_servers=broker.servers, batch_size=1 << 18, max_request_size=1_100_000)
    yield made
    made.close()


def send_all(producer: KafkaProducer, topic: str, values: list[bytes], key: bytes | None = None) -> None:
    for sent in [producer.send(topic, value, key) for value in values]:
        sent.get(60)


def fold_all(home: Path, config: KafkaConfig) -> None:
    """Have a process fold all that the topics hold, as one store folded in one go has it."""
    fold = FoldProcess(home, config)
    fold.start()
    try:
        fold.require_exact()
    finally:
        fold.end()


def test_a_hundred_thousand_messages_that_came_while_it_was_down(
    broker: Cluster, producer: KafkaProducer, tmp_path: Path
) -> None:
    config = broker.config(2)
    events = [json.dumps(view(f"u{number % 500}", f"i{number % 777}", number)).encode() for number in range(100_000)]
    for start in range(0, len(events), 10_000):
        send_all(producer, config.topics.events, events[start : start + 10_000])
    fold = FoldProcess(tmp_path / "home", config)
    fold.start()
    wait_until(lambda: fold.num_folded() > 20_000, 120)
    fold.end()
    fold.start()
    try:
        fold.require_exact()
    finally:
        fold.end()


def test_ten_thousand_items_at_once(broker: Cluster, producer: KafkaProducer, tmp_path: Path) -> None:
    config = broker.config()
    items = [{"type": "item", "item_id": f"i{number}", "timestamp": 1_763_649_000_000} for number in range(10_000)]
    sent = [
        producer.send(config.topics.items, json.dumps(item).encode(), str(item["item_id"]).encode()) for item in items
    ]
    for each in sent:
        each.get(60)
    fold_all(tmp_path / "home", config)


POISON = [
    b"",
    b"\xff\xfe",
    b"{",
    b"[" * 100_000,
    b"null",
    b"7",
    b"[[]]",
    b'[{"type":"view"},7,null]',
    b'{"type":"view","user_id":7,"item_id":"i","timestamp":1763649000000}',
    b'{"type":"view","user_id":"","item_id":"i","timestamp":1763649000000}',
    b'{"type":"view","user_id":"u","item_id":"i","timestamp":1763649000}',
    b'{"type":"view","user_id":"u","item_id":"i","timestamp":9963649000000}',
    b'{"type":"view","user_id":"u","item_id":"i","timestamp":1e999}',
    b'{"type":"vieuw","user_id":"u","item_id":"i","timestamp":1763649000000}',
    b'{"type":"view","user_id":"\\ud800","item_id":"i","timestamp":1763649000000}',
    b'{"type":"view","user_id":"' + b"u" * 300 + b'","item_id":"i","timestamp":1763649000000}',
    b'{"type":"view","user_id":"u","item_id":"i","timestamp":1763649000000,"x":"' + b"x" * 1_000_000 + b'"}',
    b"[" + b",".join([b'{"type":"view","user_id":"u","item_id":"i","timestamp":1763649000000}'] * 13_000) + b"]",
]


def test_messages_of_every_bad_kind_stop_nothing_and_are_told_apart(
    broker: Cluster, producer: KafkaProducer, tmp_path: Path
) -> None:
    config = broker.config()
    good = [json.dumps(view("good", f"i{number}", number)).encode() for number in range(len(POISON))]
    values = [value for pair in zip(POISON, good, strict=True) for value in pair]
    send_all(producer, config.topics.events, values)
    send_all(producer, config.topics.items, POISON[:-1], b"poison")  # the last has more events than letters are kept
    fold_all(tmp_path / "home", config)
    with Store(tmp_path / "home" / "fold") as store, store.read() as txn:
        assert len(read_record(txn, store, b"good").sequence.rows) == len(POISON)
        letters = {(letter.partition, letter.offset) for letter in read_dead_letters(txn, store)}
    is_bad = {2 * place for place in range(len(POISON) - 1)}
    assert {offset for partition, offset in letters if partition == f"{config.topics.events}-0"} == is_bad
    assert {offset for partition, offset in letters if partition == f"{config.topics.items}-0"} == set(
        range(1, len(POISON) - 1)  # the first, an empty value, is no poison there: it deletes the item of its key
    )


def test_duplicates_and_another_order_fold_to_the_same_records(
    broker: Cluster, producer: KafkaProducer, tmp_path: Path
) -> None:
    events = [json.dumps(view(f"u{k % 7}", f"i{k % 91}", k, event_id=f"e{k}")).encode() for k in range(1_000)]
    shuffled = [events[place] for place in np.random.default_rng(0).permutation(np.arange(1_000).repeat(2))]
    records: list[list[bytes]] = []
    for name, values in (("once", events), ("twice", shuffled)):
        config = broker.config(2 if name == "twice" else 1)
        send_all(producer, config.topics.events, values)
        (tmp_path / name).mkdir()
        fold_all(tmp_path / name / "home", config)
        with Store(tmp_path / name / "home" / "fold") as store, store.read() as txn:
            names = [read_record(txn, store, f"u{k}".encode()).sequence.rows for k in range(7)]
            records.append([b"".join(row[:16] for row in rows) for rows in names])  # item numbers are the store's own
    assert records[0] == records[1]
