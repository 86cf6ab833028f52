# The fold stage as a process: a loop that steps it until it is told to stop. Clocks enter here, and in run_learn.py.
from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from time import monotonic, time_ns

from state.deltas import DeltaLog
from state.offsets import get_offsets
from state.store import Store, StoreConfigurationChanged, StoreMissing
from stream.clock import RetentionClock
from stream.dead_letter_topic import publishing
from stream.expiry import Expiry
from stream.feed import open_feed
from stream.fold import FoldConfig, FoldStage
from stream.kafka_config import KafkaConfig
from stream.losses import note_loss
from stream.metrics import StageMetrics
from stream.sessions import IsOver, pause, run_sessions
from stream.shipped import fold_key, fold_name, shipped, shipped_note
from stream.snapshots import SnapshotConfig, Snapshots
from stream.source import SourceLost

FOLD_NAME = fold_name(0)  # how the learner calls the one fold store of this machine
_log = logging.getLogger(__name__)
_HOUR_MS = 3_600_000
# A delta on topics is a message to ship, and one that the learner and every node look up and fold: fewer and larger
# ones leave them time. With 50 a second on two cores a version of the learner came 300 ms later than with 20.
_COMMIT_SECONDS = {"home": 0.02, "topics": 0.05}


@dataclass(frozen=True)
class FoldRunConfig:
    """Cadence of the fold process, and its share of the events."""

    number: int = 0  # which of the folds this is, from 0 on
    num_folds: int = 1  # they share the partitions of Kafka's events: fold i has those whose number modulo this is i
    commit_seconds: float | None = None  # at most one commit in this time; None: 0.02, or 0.05 where deltas travel
    poll_seconds: float = 0.1  # how long a quiet log is waited for before looking whether to stop
    upkeep_seconds: float = 5.0  # dead readers are looked for, and deltas trimmed, this often
    delta_retention_ms: int = _HOUR_MS  # what was learned and is older is trimmed
    map_size_bytes: int = 64 << 30  # address space, not disk: what the store may grow to
    user_ttl_days: int = 180  # a user with nothing newer is forgotten; 0: nobody is
    snapshots: SnapshotConfig = field(default_factory=SnapshotConfig)
    stage: FoldConfig = field(default_factory=FoldConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.num_folds:
            raise ValueError(
                f"number = {self.number}: of num_folds = {self.num_folds} they are 0 to {self.num_folds - 1}"
            )

    def own_snapshots(self, home: Path) -> SnapshotConfig:
        """Of this fold."""
        return self.snapshots.of_fold(home, self.number, self.num_folds)


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time_ns() // 1_000_000


def run_fold(
    home: Path,
    stop: Event,
    config: FoldRunConfig | None = None,
    metrics: StageMetrics | None = None,
    kafka: KafkaConfig | None = None,
) -> None:
    """Fold the home's event log, or Kafka's topics, into its fold store until `stop` is set."""
    config, told, kafka = config or FoldRunConfig(), metrics or StageMetrics("fold"), kafka or KafkaConfig()
    run_sessions(home / "fold", stop, lambda is_over: _fold_session(home, is_over, config, told, kafka), metrics=told)


def _fold_session(
    home: Path, is_over: IsOver, config: FoldRunConfig, metrics: StageMetrics, kafka: KafkaConfig
) -> None:
    with ExitStack() as stack:
        store = stack.enter_context(Store(home / "fold", "fold", True, config.map_size_bytes))
        snapshots = Snapshots(store, home, config.own_snapshots(home))
        stack.callback(snapshots.close)
        _check_share(store, config)
        source, write = stack.enter_context(open_feed(home, kafka, config.number, config.num_folds))
        stack.enter_context(_noting_losses(store))
        stage = FoldStage(store, source, config=config.stage)
        _log.info("fold starts", extra={"version": stage.version, "offsets": stage.offsets})
        upkeep_at, clock = 0.0, RetentionClock()
        pause_seconds = config.commit_seconds
        if pause_seconds is None:
            pause_seconds = _COMMIT_SECONDS["topics" if kafka.has_delta_topics else "home"]
        expiry = Expiry(store, write, config.user_ttl_days)
        publish_letters = stack.enter_context(publishing(store, kafka))
        while not (is_over() or source.is_outdated):
            source.wait(config.poll_seconds)
            started_at = monotonic()
            result = stage.step()
            committed_at = monotonic()
            metrics.stepped(now_ms(), committed_at - started_at, store.commit_seconds if result.num_messages else None)
            if result.oldest_received_at:
                metrics.folded(result.oldest_received_at, now_ms())
            publish_letters(committed_at)
            if committed_at >= upkeep_at:
                upkeep_at = committed_at + config.upkeep_seconds
                metrics.keep()
                store.reader_check()
                stage.pass_over()
                metrics.ends(source.keep(stage.offsets))
                expiry.look(clock())
                snapshots.upkeep()
                read = shipped(shipped_note(home, "fold")) if kafka.has_delta_topics else learned_version(home)
                trim_deltas(store, clock() - config.delta_retention_ms, read)
            if result.num_messages:
                pause(is_over, pause_seconds)
        _log.info("fold stops", extra={"version": stage.version})


def _check_share(store: Store, config: FoldRunConfig) -> None:
    share = fold_key(config.number, config.num_folds)
    with store.read() as txn:
        known = store.get_meta(txn, "share", str)
        if known is None and get_offsets(txn, store):
            known = fold_key(0, 1)  # of a time when there was no other
    if known is None:
        with store.write() as txn:
            store.put_meta(txn, "share", share)
    elif known != share:
        raise StoreConfigurationChanged(
            f"store {store.path} has folded as {known}, not as {share}: put fold.number and fold.num_folds back"
        )


@contextmanager
def _noting_losses(store: Store) -> Iterator[None]:
    try:
        yield
    except SourceLost as lost:
        if lost.go_on_at:
            note_loss(store, lost)
        raise


def learned_version(home: Path) -> int:
    """The last version of the home's fold store that its learner has learned, 0 where there is none."""
    try:
        with Store(home / "learn", "learn") as store, store.read() as txn:
            return (store.get_meta(txn, "fold_versions", dict[str, int]) or {}).get(FOLD_NAME, 0)
    except StoreMissing:
        return 0


def trim_deltas(store: Store, keep_after_ms: int, keep_after_version: int) -> None:
    """Drop deltas of a stage's own store that are older, and that whoever reads them has read."""
    with store.write() as txn:
        DeltaLog(store).trim(txn, keep_after_ms, keep_after_version)
