# Two folds that share the partitions, one learner of both: every event is folded by one of them and learned once.
from __future__ import annotations

import json
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from kafka import KafkaProducer

from models.base import Model
from models.covisitation import Covisitation
from models.popularity import Popularity
from state.offsets import get_totals
from state.records import read_record
from state.store import Store, StoreConfigurationChanged
from stream.fold import FoldStage
from stream.folds import accept_gap, open_folds
from stream.kafka_config import KafkaConfig
from stream.kafka_source import KafkaSource
from stream.learn import LearnStage
from stream.run import FoldRunConfig, run_fold
from stream.shipped import fold_key, fold_name
from stream.shipper import Shipper
from stream.source import SourceLost
from tests.brokers import Cluster
from tests.stream.helpers import NOW, view
from tests.stream.shipped_stages import Stages
from tests.stream.waiting import wait_until

NUM_USERS, NUM_EVENTS = 23, 600


def produce(config: KafkaConfig) -> None:
    with closing(KafkaProducer(bootstrap_servers=config.servers)) as producer:
        for number in range(NUM_EVENTS):
            user = f"u{number % NUM_USERS}"
            event = view(user, f"i{number % 17}", number, event_id=f"e{number}")
            producer.send(config.topics.events, json.dumps(event).encode(), user.encode())
        item = {"type": "item", "item_id": "i1", "timestamp": NOW, "title": "one"}
        producer.send(config.topics.items, json.dumps(item).encode(), b"i1").get(20)
        producer.flush()


def fold_all(config: KafkaConfig, number: int, store: Store) -> None:
    with closing(KafkaSource(config, number, 2)) as source:
        stage, ends = FoldStage(store, source), source.end_offsets()
        wait_until(lambda: stage.step(0.1).num_messages == 0 and stage.offsets == ends, 30)
    with closing(Shipper(store, config, fold_name(number), fold_key(number, 2))) as shipper:
        while shipper.step():
            pass


def test_users_are_of_one_fold_each_and_every_event_is_learned_once(broker: Cluster, tmp_path: Path) -> None:
    config = broker.config(num_partitions=5, num_folds=2)
    produce(config)
    with ExitStack() as stack:
        stores = [stack.enter_context(Store(tmp_path / f"{k}", "fold", writer=True)) for k in range(2)]
        for number, store in enumerate(stores):
            fold_all(config, number, store)
        learned = stack.enter_context(Store(tmp_path / "learn", "learn", writer=True))
        models: dict[str, Model] = {"popularity": Popularity(), "covisitation": Covisitation()}
        folds = stack.enter_context(open_folds(tmp_path, config, 2, lambda: False))
        assert folds is not None
        stage = LearnStage(learned, folds.sources, models, np.random.default_rng(0))
        ends = {fold_name(number): source.last() for number, source in enumerate(folds.sources.values())}

        def is_learned() -> bool:
            folds.wait(lambda: False, 0.05)
            stage.step(NOW)
            return stage.fold_versions == ends

        wait_until(is_learned, 30)
        counts = []
        for user in (f"u{number}".encode() for number in range(NUM_USERS)):
            found = []
            for store in (*stores, learned):
                with store.read() as txn:
                    found.append(len(read_record(txn, store, user).sequence.rows))
            counts.append(found)
        with learned.read() as txn:
            assert sum(get_totals(txn, learned).values()) == NUM_EVENTS
    assert all(0 in (one, other) and one + other == learned_entries for one, other, learned_entries in counts)
    assert sum(one + other for one, other, _ in counts) == NUM_EVENTS
    assert all(any(found[number] for found in counts) for number in range(2))


def test_a_fold_refuses_another_share_than_its_store_has(broker: Cluster, tmp_path: Path) -> None:
    config, stop = broker.config(num_partitions=2), Event()
    for number, num_folds in ((0, 1), (1, 2)):
        with Store(tmp_path / f"{number}" / "fold", "fold", writer=True) as store, store.write() as txn:
            store.put_meta(txn, "share", fold_key(0, 2))
        with pytest.raises(
            StoreConfigurationChanged, match=f"has folded as fold-0/2, not as fold-{number}/{num_folds}"
        ):
            run_fold(tmp_path / f"{number}", stop, FoldRunConfig(number, num_folds), kafka=config)


def read_on(config: KafkaConfig) -> None:
    with open_folds(Path(), config, 1, lambda: False) as folds:
        assert folds is not None
        for _ in range(100):
            folds.sources["fold-0"].read(0, 1)
            folds.wait(lambda: False, 0.1)


def test_a_learner_goes_on_behind_a_gap_once_a_person_has_accepted_it(broker: Cluster, tmp_path: Path) -> None:
    with ExitStack() as stack:
        stages = Stages(broker, tmp_path, stack)
        stages.grow(10)
        stages.ship()
        stages.delete_before(6)
        with Store(tmp_path / "late", "learn", writer=True) as late:
            with pytest.raises(SourceLost, match=r"is 7, and 1 is needed\. Go on without what is gone"):
                read_on(stages.config)
            assert accept_gap(late, stages.config, 1, NOW) == {"fold-0": (0, 6)}
            assert accept_gap(late, stages.config, 1, NOW) == {}
            with late.read() as txn:
                assert late.get_meta(txn, "fold_versions", dict[str, int]) == {"fold-0": 6}
