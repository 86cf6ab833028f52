# A fold and a learn store whose deltas are shipped to topics of their own, for tests of whoever reads these.
from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from kafka import KafkaAdminClient, KafkaProducer

from models.registry import build_models
from state.follower import LEARN, StoreSource
from state.store import Store
from stream.delta_places import Place, headers_of, partition_of
from stream.delta_topics import DeltaTopics
from stream.learn import LearnStage
from stream.shipped import fold_keys
from stream.shipper import Shipper
from tests.brokers import Cluster
from tests.stream.helpers import NOW, fold, random_events, value
from tests.stream.waiting import wait_until

FOLD = "fold-0"
KEY = "fold-0/1"


class Stages:
    """A fold and a learn store whose deltas are shipped to topics of their own."""

    def __init__(self, broker: Cluster, folder: Path, stack: ExitStack) -> None:
        self.config, self._stack, self._folder = broker.config(), stack, folder
        self.fold = stack.enter_context(Store(folder / "fold", "fold", writer=True))
        self.learn = stack.enter_context(Store(folder / "learn", "learn", writer=True))
        self._num_folded = 0

    def grow(self, num_versions: int) -> None:
        """So many more versions of the fold, one event each, and one more of the learner."""
        events = random_events(self._num_folded + num_versions)
        for number in range(self._num_folded, len(events)):
            fold(self.fold, [value(event) for event in events[: number + 1]])
        self._num_folded = len(events)
        models = build_models(["popularity", "covisitation"], 0, {})
        stage = LearnStage(self.learn, {FOLD: StoreSource(self.fold)}, models, np.random.default_rng(0))
        while stage.step(NOW).num_deltas:
            pass

    def ship(self, limit: int | None = None) -> int:
        """Start shippers, and ship all there is, or one step of the fold's; how many versions."""
        with closing(Shipper(self.fold, self.config, FOLD, KEY)) as shipper:
            if limit is not None:
                return shipper.step(limit)
            num_shipped = 0
            while found := shipper.step():
                num_shipped += found
        with closing(Shipper(self.learn, self.config, LEARN, LEARN)) as shipper:
            while found := shipper.step():
                num_shipped += found
        return num_shipped

    def topics(self, num_folds: int = 1) -> DeltaTopics:
        """A reader of all topics."""
        topics = DeltaTopics(self.config, fold_keys(num_folds) | {LEARN: LEARN})
        self._stack.callback(topics.close)
        return topics

    def read(self, topics: DeltaTopics, after_version: int, up_to: int) -> list[tuple[int, bytes]]:
        """The fold's deltas as a reader finds them."""
        found: list[tuple[int, bytes]] = []

        def is_read() -> bool:
            topics.wait(0.1)
            found[:] = topics.sources[FOLD].read(after_version, 1000)
            return bool(found) and found[-1][0] >= up_to

        wait_until(is_read, 20)
        return found

    def stored(self, after_version: int = 0) -> list[tuple[int, bytes]]:
        """The fold's deltas as its store has them."""
        return StoreSource(self.fold).read(after_version, 1000)

    def send(self, version: int, chunk: int, data: bytes, num_chunks: int) -> None:
        """A message by a shipper that should be dead."""
        with closing(KafkaProducer(bootstrap_servers=self.config.servers)) as producer:
            partition, place = partition_of(self.config, FOLD), Place(KEY, version, chunk, num_chunks, NOW)
            producer.send(partition.topic, data, KEY.encode(), headers_of(place), partition.partition).get(20)

    def delete_before(self, offset: int) -> None:
        """What retention does to the fold's topic."""
        with closing(KafkaAdminClient(bootstrap_servers=self.config.servers)) as admin:
            admin.delete_records({partition_of(self.config, FOLD): offset})
