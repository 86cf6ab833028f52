# The learn stage as a process: a loop that steps it until it is told to stop.
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.base import Model
from state.store import Store
from stream.amend import Reopen
from stream.clock import RetentionClock
from stream.drift import DETECTORS, Alarm, DriftConfig, DriftMonitor
from stream.folds import Folds, open_folds
from stream.guard import ModelHeld, hold
from stream.kafka_config import KafkaConfig
from stream.learn import LearnConfig, LearnStage
from stream.log import PARTITION, EventLog
from stream.metrics import StageMetrics
from stream.rebuild import open_models
from stream.run import now_ms, trim_deltas
from stream.sessions import IsOver, run_sessions
from stream.shipped import shipped, shipped_note
from stream.snapshots import SnapshotConfig, Snapshots

if TYPE_CHECKING:
    from models.group import Group  # torch, which the fold process does without

_log = logging.getLogger(__name__)
_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class LearnRunConfig:
    """Cadence of the learn process. Models are those it trains; a mixture brings its parts."""

    models: tuple[str, ...] = ("blend",)
    configs: dict[str, dict[str, object]] = field(default_factory=dict)  # model → key → value; the rest as it is built
    commit_seconds: float = 0.4  # half of it is what an event waits on average; dense weights travel with each commit
    upkeep_seconds: float = 5.0
    delta_retention_ms: int = _HOUR_MS
    event_retention_ms: int = 24 * _HOUR_MS  # what was learned and is older leaves the event log
    num_threads: int = 1  # of torch; where cores are shared, more threads wait for each other longer than they compute
    min_trained: int = 256  # examples a step that gradient models train on at least, whatever the lag
    map_size_bytes: int = 64 << 30  # address space, not disk: what the store may grow to
    snapshots: SnapshotConfig = field(default_factory=SnapshotConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    stage: LearnConfig = field(default_factory=LearnConfig)


def run_learn(
    home: Path,
    stop: Event,
    seed: int = 0,
    config: LearnRunConfig | None = None,
    metrics: StageMetrics | None = None,
    kafka: KafkaConfig | None = None,
    num_folds: int = 1,
    group: Group | None = None,
) -> None:
    """Learn the configured models from the home's fold store, or from Kafka's topics, until `stop` is set; with a
    group, as its rank 0."""
    import torch  # here and not above, for the fold process does without

    config = config or LearnRunConfig()
    torch.set_num_threads(config.num_threads)
    names, configs = config.models, config.configs

    def build_models(store: Store) -> Mapping[str, Model]:
        models = open_models(store, names, seed, configs)
        if group is not None:
            group.lead(models)
        return models

    learn_models(home, stop, build_models, seed, config, metrics, kafka, num_folds)


def learn_models(
    home: Path,
    stop: Event,
    build_models: Callable[[Store], Mapping[str, Model]],
    seed: int,
    config: LearnRunConfig,
    metrics: StageMetrics | None = None,
    kafka: KafkaConfig | None = None,
    num_folds: int = 1,
) -> None:
    """Learn models, built anew for each session, from folds until `stop` is set.

    `build_models` is given the learn store, which says what is being rebuilt.
    """
    told, kafka = metrics or StageMetrics("learn"), kafka or KafkaConfig()
    note = shipped_note(home, "learn") if kafka.has_delta_topics else None

    def session(is_over: IsOver) -> None:
        rng = np.random.default_rng([seed, *b"learn"])
        folds = open_folds(home, kafka, num_folds, is_over)
        _learn_session(home, is_over, folds, note, build_models, rng, config, told)

    run_sessions(home / "learn", stop, session, metrics=told)


def _learn_session(
    home: Path,
    is_over: IsOver,
    opening: AbstractContextManager[Folds | None],
    note: Path | None,
    build_models: Callable[[Store], Mapping[str, Model]],
    rng: np.random.Generator,
    config: LearnRunConfig,
    metrics: StageMetrics,
) -> None:
    with ExitStack() as stack:
        store = stack.enter_context(Store(home / "learn", "learn", True, config.map_size_bytes))
        snapshots = Snapshots(store, home, config.snapshots)
        stack.callback(snapshots.close)
        folds = stack.enter_context(opening)
        if folds is None:
            return
        stage = LearnStage(store, folds.sources, build_models(store), rng, config=config.stage)
        folds.require(stage.fold_versions)
        metrics.begin(stage.models, DETECTORS)
        _log.info("learn starts", extra={"version": stage.version, "offsets": stage.offsets})
        try:
            _learn_until(is_over, stage, _Parts(store, folds, snapshots, home / "log", note), config, metrics)
        except Reopen as reason:
            _log.warning("learn opens its models anew: %s", reason)
        _log.info("learn stops", extra={"version": stage.version})


class _Parts(NamedTuple):
    store: Store
    folds: Folds
    snapshots: Snapshots
    log_path: Path  # of the embedded log, where there is one
    shipped: Path | None  # the shipper's note, where deltas travel on topics


def _learn_until(
    is_over: IsOver, stage: LearnStage, parts: _Parts, config: LearnRunConfig, metrics: StageMetrics
) -> None:
    budget = TrainBudget(config.min_trained, config.commit_seconds)
    drift = DriftMonitor(config.drift)
    upkeep_at, clock = 0.0, RetentionClock()
    while not (is_over() or parts.folds.is_outdated):
        started_at, versions = monotonic(), stage.fold_versions
        result = stage.step(now_ms(), budget.examples)
        stepped_at = monotonic()
        budget.spent(stepped_at - started_at, result.num_examples - result.num_sampled_out)
        seconds = stepped_at - started_at
        metrics.stepped(now_ms(), seconds, parts.store.commit_seconds if result.num_deltas else None)
        if result.num_deltas:
            stamps = _stamps(parts.folds, versions, stage.fold_versions)
            metrics.learned(stamps, now_ms(), result.losses, result.refused)
        _heed(drift.observe(result), stage, config.drift, parts.store, metrics)
        if stepped_at >= upkeep_at:
            upkeep_at = stepped_at + config.upkeep_seconds
            metrics.keep()
            metrics.covered(stage.prequential.coverage())
            for name, progress in stage.rebuilds.progress(stage.prequential).items():
                _log.info("rebuild of model %s: %s", name, progress)
            parts.store.reader_check()
            parts.snapshots.upkeep()
            kept_after = stage.version if parts.shipped is None else shipped(parts.shipped)
            trim_deltas(parts.store, clock() - config.delta_retention_ms, kept_after)
            _trim_log(parts.log_path, stage.offsets.get(PARTITION, 0), clock() - config.event_retention_ms)
        parts.folds.wait(is_over, config.commit_seconds - (stepped_at - started_at))


def _trim_log(path: Path, before_offset: int, before_received_at: int) -> None:
    """Drop what was learned and is older from the home's own log, where it has one."""
    if path.is_dir():
        with closing(EventLog(path)) as log:
            log.trim(before_offset, before_received_at)


def _heed(alarms: Sequence[Alarm], stage: LearnStage, config: DriftConfig, store: Store, metrics: StageMetrics) -> None:
    """Tell of alarms, and hold their models where the settings say so."""
    for model, detector, text in alarms:
        metrics.drifted(model, detector)
        _log.warning("drift: model %s: %s: %s", model, detector, text)
    if config.may_hold and alarms:
        reasons = {model: f"drift: {detector}: {text}, at version {stage.version}" for model, detector, text in alarms}
        hold(store, reasons, now_ms())
        raise ModelHeld(reasons)


class TrainBudget:
    """How many examples gradient models may train on in a step, so that a step takes about as long as it should."""

    def __init__(self, least: int, target_seconds: float) -> None:
        self._least, self._target_seconds = least, target_seconds
        self.examples = max(least, 2048)

    def spent(self, seconds: float, num_trained: int) -> None:
        """Learn from a step that trained on so many examples in this time."""
        if seconds > self._target_seconds:
            self.examples = max(self._least, int(num_trained * max(0.5, self._target_seconds / seconds)))
        elif num_trained >= self.examples:
            self.examples = self.examples * 5 // 4


def _stamps(folds: Folds, before: Mapping[str, int], now: Mapping[str, int]) -> list[int]:
    """When the events of each delta that was learned were received, milliseconds."""
    stamps: list[int] = []
    for name, source in folds.sources.items():
        learned = before.get(name, 0)
        stamps += source.stamps(learned, now.get(name, 0) - learned)
    return stamps
