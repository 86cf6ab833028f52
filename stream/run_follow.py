# The follower as a process: a loop that folds the delta topics into a node's own store until it is told to stop.
from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event
from time import monotonic

from state.deltas import DeltaGap, DeltaLog
from state.follower import LEARN, Follower
from state.from_snapshots import begin_from
from state.record import RecordLimits
from state.signals import SignalTable
from state.snapshots import newest_together
from state.store import Store, StoreMissing
from stream.clock import RetentionClock
from stream.delta_topics import DeltaTopics
from stream.follow_config import FollowRunConfig
from stream.kafka_config import KafkaConfig
from stream.kafka_topics import describe_topics
from stream.metrics import StageMetrics
from stream.run import now_ms
from stream.sessions import IsOver, run_sessions
from stream.shipped import fold_keys
from stream.source import SourceLost

_FOLLOWED = "followed"  # in `meta`: the folds' shares and the topics' ids that the store's versions are of
_log = logging.getLogger(__name__)


def run_follow(
    home: Path,
    stop: Event,
    kafka: KafkaConfig,
    snapshots: Mapping[str, Path],
    config: FollowRunConfig | None = None,
    limits: RecordLimits | None = None,
    metrics: StageMetrics | None = None,
) -> None:
    """Fold the deltas of folds and of the learner into the home's follow store until `stop` is set.

    `snapshots` names all stages, and where each keeps its snapshots: from there it begins where Kafka no longer holds
    what comes next.
    """
    config, told = config or FollowRunConfig(), metrics or StageMetrics("follow")
    folds = fold_keys(len(snapshots) - 1)
    keys = folds | {LEARN: LEARN}

    def session(is_over: IsOver) -> None:
        with (
            Store(home / "follow", "follow", True, config.map_size_bytes) as store,
            closing(DeltaTopics(kafka, keys)) as topics,
        ):
            follower = Follower(store, SignalTable(), limits, list(folds))
            _log.info("follow starts", extra={"versions": {name: follower.version(name) for name in keys}})
            about = sorted([*keys.values(), *topic_ids(kafka)])
            with store.read() as txn:
                known = store.get_meta(txn, _FOLLOWED, list[str])
            try:
                if known not in (None, about):
                    _begin_anew(store, snapshots, "the topics, or the folds, are others than before")
                    known = None
                if known is None:
                    with store.write() as txn:
                        store.put_meta(txn, _FOLLOWED, about)
                    return
                _follow_until(is_over, store, follower, topics, config, told)
            except DeltaGap as gap:
                _begin_anew(store, snapshots, str(gap), follower)

    run_sessions(home / "follow", stop, session, metrics=told)


def topic_ids(kafka: KafkaConfig) -> list[str]:
    """Of the topics of deltas: one made again holds another history. Raises SourceLost where one is missing."""
    names = [kafka.topics.fold_deltas, kafka.topics.learn_deltas]
    found = describe_topics(kafka, names)
    for name in names:
        if name not in found:
            raise SourceLost(f"Kafka at {kafka.servers} has no topic {name!r}: `runnel topics` makes it")
    return [found[name].topic_id for name in names]


def _begin_anew(store: Store, snapshots: Mapping[str, Path], why: str, follower: Follower | None = None) -> None:
    """Put the newest snapshots in place of what the store holds; where it goes on from its follower's versions, only
    those that are further. The follower is to be dropped."""
    try:
        found = newest_together(snapshots, LEARN)
        gained = {name: each.version - (follower.version(name) if follower else -1) for name, each in found.items()}
        if not gained or min(gained.values()) < 0 or not max(gained.values()):
            places = ", ".join(sorted({str(path) for path in snapshots.values()}))
            raise SourceLost(f"{why}, and {places} holds no snapshots that go on from there")
        _log.warning("follow begins from snapshots: %s", why)
        with ExitStack() as stack:
            stores = {name: stack.enter_context(Store(snapshot.path)) for name, snapshot in found.items()}
            learn = stores.pop(LEARN)
            begin_from(store, stores, learn, now_ms())
    except StoreMissing as gone:  # a stage has just removed it, having written another
        raise SourceLost(f"{why}; a snapshot is gone: {gone}") from gone


def _follow_until(
    is_over: IsOver,
    store: Store,
    follower: Follower,
    topics: DeltaTopics,
    config: FollowRunConfig,
    metrics: StageMetrics,
) -> None:
    upkeep_at, clock = 0.0, RetentionClock()
    while not (is_over() or store.is_outdated):
        topics.wait(config.poll_seconds)
        started_at = monotonic()
        num_folded = sum(follower.step(name, source, now_ms()) for name, source in topics.sources.items())
        stepped_at = monotonic()
        metrics.stepped(now_ms(), stepped_at - started_at, store.commit_seconds if num_folded else None)
        if stepped_at >= upkeep_at:
            upkeep_at = stepped_at + config.upkeep_seconds
            metrics.keep()
            store.reader_check()
            _trim(store, clock() - config.delta_retention_ms)


def _trim(store: Store, before_ms: int) -> None:
    with store.write() as txn:
        for log in (DeltaLog(store, "fold"), DeltaLog(store, "learn")):
            log.trim(txn, before_ms, log.last(txn))
