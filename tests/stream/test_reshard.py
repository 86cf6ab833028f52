# Another number of folds: every user, position and count is of one of the new folds, and all goes on as if by one.
from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaProducer

from models.base import Model
from models.popularity import Popularity
from state.follower import StoreSource
from state.offsets import get_offsets, get_totals
from state.store import Store, StoreError
from stream.fold import FoldStage
from stream.kafka_config import KafkaConfig
from stream.kafka_source import KafkaSource
from stream.learn import LearnStage
from stream.reshard import Reshard
from stream.shipped import fold_key, fold_name
from tests.brokers import Cluster
from tests.stream.helpers import NOW, named_dump, random_events
from tests.stream.waiting import wait_until

NUM_PARTITIONS = 5
SETS = ("sequence", "seen", "dislikes", "slates", "impressions", "tombstones", "dead letters")


class Feed:
    """Events of all kinds on a topic of several partitions, keyed by user."""

    def __init__(self, config: KafkaConfig) -> None:
        self.config, self._num_sent = config, 0

    def send(self, num_events: int) -> None:
        topics = self.config.topics
        with closing(KafkaProducer(bootstrap_servers=self.config.servers)) as producer:
            for event in random_events(self._num_sent + num_events, num_users=30)[self._num_sent :]:
                is_item = str(event["type"]).startswith("item")
                key = str(event["item_id"] if is_item else event["user_id"]).encode()
                topic = topics.items if is_item else topics.events
                producer.send(topic, json.dumps(event).encode(), key)
            producer.flush()
        self._num_sent += num_events

    def fold(self, stores: list[Store]) -> None:
        """Have each of them fold its share."""
        for number, store in enumerate(stores):
            with closing(KafkaSource(self.config, number, len(stores))) as source:
                stage, ends = FoldStage(store, source), source.end_offsets()
                wait_until(lambda: stage.step(0.1).num_messages == 0 and stage.offsets == ends, 30)  # noqa: B023
            with store.write() as txn:
                store.put_meta(txn, "share", fold_key(number, len(stores)))


def learn(store: Store, folds: list[Store]) -> int:
    """Learn all there is; examples learned since the store was made."""
    models: dict[str, Model] = {"popularity": Popularity()}
    sources = {fold_name(number): StoreSource(fold) for number, fold in enumerate(folds)}
    stage = LearnStage(store, sources, models, np.random.default_rng(0))
    while stage.step(NOW).num_deltas:
        pass
    with store.read() as txn:
        return sum(get_totals(txn, store).values())


def together(stores: list[Store]) -> dict[str, object]:
    """What all folds say, but for what each of them says of all items."""
    found: dict[str, list[object]] = {name: [] for name in SETS}
    totals: dict[object, int] = {}
    offsets: dict[str, int] = {}
    for store in stores:
        said = named_dump(store)
        for name in SETS:
            rows = said[name]
            assert isinstance(rows, list)
            found[name] += rows
        with store.read() as txn:
            for key, count in get_totals(txn, store).items():
                totals[key] = totals.get(key, 0) + count
            offsets |= get_offsets(txn, store)
    return {name: sorted(rows, key=repr) for name, rows in found.items()} | {"totals": totals, "offsets": offsets}


def of_users(said: dict[str, object]) -> dict[str, object]:
    """Without what each fold counts of the topic that all read."""
    totals = said["totals"]
    assert isinstance(totals, dict)
    return said | {"totals": {key: n for key, n in totals.items() if not str(key[0]).startswith("item")}}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def opened(stack: ExitStack, paths: list[Path]) -> list[Store]:
    return [stack.enter_context(Store(path, "fold", writer=True)) for path in paths]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_another_number_of_folds_goes_on_as_one_would(
    broker: Cluster, tmp_path: Path, stack: ExitStack, before: int, after: int
) -> None:
    feed = Feed(broker.config(NUM_PARTITIONS))
    folds = opened(stack, [tmp_path / f"old-{number}" for number in range(before)])
    (alone,) = opened(stack, [tmp_path / "alone"])
    learned = stack.enter_context(Store(tmp_path / "learn", "learn", writer=True))
    feed.send(400)
    feed.fold(folds)
    learn(learned, folds)
    targets = [tmp_path / f"new-{number}" / "fold" for number in range(after)]
    Reshard(folds, learned, feed.config.topics.items).divide(targets, NOW)
    made = opened(stack, targets)
    assert of_users(together(made)) == of_users(together(folds))
    feed.send(300)
    feed.fold(made)
    feed.fold([alone])
    assert of_users(together(made)) == of_users(together([alone]))
    assert all(named_dump(store)["catalogue"] == named_dump(alone)["catalogue"] for store in made)
    num_learned = learn(learned, made)
    other = stack.enter_context(Store(tmp_path / "other", "learn", writer=True))
    assert num_learned == learn(other, [alone])


@pytest.mark.parametrize("num_named", [0, 1, 2])
def test_a_reshard_that_was_killed_before_the_stores_have_their_names_is_finished(
    broker: Cluster, tmp_path: Path, stack: ExitStack, num_named: int
) -> None:
    feed = Feed(broker.config(NUM_PARTITIONS))
    folds = opened(stack, [tmp_path / "old"])
    learned = stack.enter_context(Store(tmp_path / "learn", "learn", writer=True))
    feed.send(100)
    feed.fold(folds)
    learn(learned, folds)
    targets = [tmp_path / f"new-{number}" / "fold" for number in range(2)]
    version = Reshard(folds, learned, feed.config.topics.items).divide(targets, NOW)
    for target in targets[num_named:]:
        target.rename(target.with_name("fold.part"))
    assert Reshard(folds, learned, feed.config.topics.items).divide(targets, NOW) == version
    assert of_users(together(opened(stack, targets))) == of_users(together(folds))


def test_what_cannot_be_divided_says_why(broker: Cluster, tmp_path: Path, stack: ExitStack) -> None:
    feed = Feed(broker.config(NUM_PARTITIONS))
    folds = opened(stack, [tmp_path / "a", tmp_path / "b"])
    learned = stack.enter_context(Store(tmp_path / "learn", "learn", writer=True))
    feed.send(100)
    feed.fold(folds)
    items, targets = feed.config.topics.items, [tmp_path / "new" / "fold"]
    with pytest.raises(StoreError, match="has folded as fold-1/2, and fold-0/2 is needed"):
        Reshard(folds[::-1], learned, items)
    with pytest.raises(StoreError, match="has not learned all that was folded"):
        Reshard(folds, learned, items).divide(targets, NOW)
    learn(learned, folds)
    with pytest.raises(StoreError, match="is there already: give homes without stores"):
        Reshard(folds, learned, items).divide([tmp_path / "a"], NOW)
    with closing(KafkaProducer(bootstrap_servers=feed.config.servers)) as producer:
        event = {"type": "view", "user_id": "lost", "item_id": "i", "timestamp": NOW}
        for partition in range(NUM_PARTITIONS):
            producer.send(feed.config.topics.events, json.dumps(event).encode(), partition=partition).get(20)
    feed.fold(folds)
    learn(learned, folds)
    with pytest.raises(StoreError, match=r"user b'lost' is of partition \d by Kafka's default partitioner"):
        Reshard(folds, learned, items).divide(targets, NOW)
