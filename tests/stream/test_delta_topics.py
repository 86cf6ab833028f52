# Deltas on topics: what is shipped comes out as it stands in the stores, whatever was killed, sent twice or deleted.
from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from state.deltas import MAX_MESSAGE_BYTES, Delta, DeltaGap, DeltaLog, encode, split
from state.dictionary import Dictionary
from state.dump import dump_serving
from state.follower import LEARN, Follower, StoreSource
from state.meta import put_version
from state.offsets import get_offsets, get_totals
from state.signals import SignalTable
from state.store import Store
from stream.shipper import Shipper
from stream.source import SourceLost
from tests.brokers import Cluster
from tests.stream.helpers import NOW
from tests.stream.shipped_stages import FOLD, KEY, Stages
from tests.stream.waiting import wait_until


@pytest.fixture
def stages(broker: Cluster, tmp_path: Path) -> Iterator[Stages]:
    with ExitStack() as stack:
        yield Stages(broker, tmp_path, stack)


def add_big_version(store: Store, size: int) -> bytes:
    """A version whose delta takes several messages."""
    with store.write() as txn:
        noise = np.random.default_rng(0).bytes(size)
        delta = Delta("fold", DeltaLog(store).last(txn) + 1)
        delta.held = {"noise": noise.hex()}
        data = encode(delta, Dictionary(store).name)
        put_version(txn, store, "fold", delta.version)
        DeltaLog(store).append(txn, delta.version, data, NOW)
    return data


def follow(store: Store, stages: Stages) -> None:
    """Fold all topics into a node's store."""
    topics = stages.topics()
    follower = Follower(store, SignalTable(), folds=[FOLD])
    ends = {FOLD: StoreSource(stages.fold).last(), LEARN: StoreSource(stages.learn).last()}

    def is_done() -> bool:
        topics.wait(0.1)
        for name, source in topics.sources.items():
            follower.step(name, source, NOW)
        return all(follower.version(name) == end for name, end in ends.items())

    wait_until(is_done, 20)


def test_a_node_that_follows_the_topics_is_like_the_stages_wherever_it_stopped(stages: Stages, tmp_path: Path) -> None:
    with Store(tmp_path / "node", "follow", writer=True) as node:
        for num_versions in (30, 1, 40):
            stages.grow(num_versions)
            stages.ship()
            follow(node, stages)
        with node.read() as txn, stages.fold.read() as folded, stages.learn.read() as learned:
            assert dump_serving(txn, node) == dump_serving(learned, stages.learn)
            assert get_offsets(txn, node, "fold") == get_offsets(folded, stages.fold)
            totals = get_totals(folded, stages.fold) | get_totals(learned, stages.learn)
            assert get_totals(txn, node) == totals


def test_a_shipper_goes_on_where_the_topic_ends(stages: Stages) -> None:
    stages.grow(25)
    assert stages.ship(limit=10) == 10
    assert stages.ship(limit=10) == 10
    assert stages.ship() == 5 + 1
    assert stages.ship() == 0
    assert stages.read(stages.topics(), 0, 25) == stages.stored()


@pytest.mark.parametrize("after_version", [0, 1, 17, 24, 25])
def test_a_reader_begins_behind_any_version(stages: Stages, after_version: int) -> None:
    stages.grow(25)
    stages.ship()
    topics = stages.topics()
    assert topics.sources[FOLD].read(after_version, 1000) in ([], stages.stored(after_version))
    stages.grow(1)
    stages.ship()
    assert stages.read(topics, after_version, 26) == stages.stored(after_version)
    assert stages.read(topics, 20, 26) == stages.stored(20)
    assert stages.read(topics, 3, 26) == stages.stored(3)
    assert topics.sources[FOLD].stamps(20, 3) == StoreSource(stages.fold).stamps(20, 3)


def test_a_large_delta_whose_shipper_was_killed_within_it_comes_whole(stages: Stages) -> None:
    stages.grow(3)
    stages.ship()
    data = add_big_version(stages.fold, 2 * MAX_MESSAGE_BYTES)
    parts = split("fold", 4, data)
    assert len(parts) > 2
    stages.send(4, 0, parts[0], len(parts))
    stages.send(4, 1, parts[1], len(parts))
    assert stages.ship(limit=10) == 1
    assert stages.read(stages.topics(), 0, 4) == stages.stored()


def test_a_message_that_comes_late_is_passed_over_and_misleads_nobody(stages: Stages) -> None:
    stages.grow(40)
    stages.ship()
    for version, data in stages.stored()[4:14]:
        stages.send(version, 0, data, 1)
    stages.grow(5)
    with closing(Shipper(stages.fold, stages.config, FOLD, KEY)) as shipper:
        shipper.version = 40  # what it knew before the late ones came
        assert shipper.step() == 5
    topics = stages.topics()
    for after_version in (0, 3, 7, 12, 13, 14, 39, 40, 44):
        assert stages.read(topics, after_version, 45) == stages.stored(after_version)


def test_what_retention_deleted_is_a_gap(stages: Stages) -> None:
    stages.grow(20)
    stages.ship()
    topics = stages.topics()
    assert stages.read(topics, 0, 20) == stages.stored()
    stages.delete_before(10)
    assert stages.read(topics, 10, 20) == stages.stored(10)
    with pytest.raises(DeltaGap, match="the oldest delta of fold-0 that Kafka holds is 11, and 10 is needed"):
        stages.read(topics, 9, 20)
    assert stages.read(topics, 15, 20) == stages.stored(15)


def test_what_the_store_trimmed_before_it_was_shipped_is_a_gap(stages: Stages) -> None:
    stages.grow(5)
    stages.ship()
    stages.grow(10)
    with stages.fold.write() as txn:
        DeltaLog(stages.fold).trim(txn, NOW + 10**9, 10)
    stages.ship()
    with pytest.raises(DeltaGap, match="fold-0 that Kafka holds is 11, and 6 is needed"):
        stages.read(stages.topics(), 5, 15)


def test_a_store_that_was_put_back_is_not_shipped(stages: Stages, tmp_path: Path) -> None:
    stages.grow(5)
    stages.fold.copy(tmp_path / "older")
    stages.grow(5)
    stages.ship()
    with (
        Store(tmp_path / "older") as older,
        pytest.raises(SourceLost, match=r"holds version 10 of fold-0, and .* is at 5:"),
    ):
        Shipper(older, stages.config, FOLD, KEY)


def test_a_fold_of_another_number_of_folds_is_not_followed(stages: Stages) -> None:
    stages.grow(3)
    stages.ship()
    with pytest.raises(DeltaGap, match="deltas of fold-0 are those of a store 'fold-0/1', not of 'fold-0/2'"):
        stages.read(stages.topics(num_folds=2), 0, 3)


def test_a_reader_that_is_far_behind_comes_to_the_end_though_it_holds_little_at_a_time(stages: Stages) -> None:
    with stages.fold.write() as txn:
        for version in range(1, 3001):
            data = encode(Delta("fold", version, held={"noise": "x" * (version % 700)}), Dictionary(stages.fold).name)
            DeltaLog(stages.fold).append(txn, version, data, NOW)
        put_version(txn, stages.fold, "fold", 3000)
    stages.ship()
    source, read = stages.topics().sources[FOLD], list[tuple[int, bytes]]()

    def is_read() -> bool:
        read.extend(source.read(read[-1][0] if read else 0, 100))
        return len(read) == 3000

    wait_until(is_read, 60)
    assert read == StoreSource(stages.fold).read(0, 3000)
