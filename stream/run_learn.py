# The learn stage as a process: a loop that steps it until it is told to stop.
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.base import Model
from state.deltas import DeltaLog
from state.follower import StoreSource
from state.meta import get_version
from state.store import Store, StoreConfigurationChanged, StoreMissing
from stream.amend import Reopen
from stream.clock import RetentionClock
from stream.drift import DETECTORS, Alarm, DriftConfig, DriftMonitor
from stream.guard import ModelHeld, hold
from stream.learn import LearnConfig, LearnStage
from stream.log import PARTITION, EventLog
from stream.metrics import StageMetrics
from stream.rebuild import open_models
from stream.run import FOLD_NAME, now_ms, trim_deltas
from stream.sessions import IsOver, pause, run_sessions
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
    group: Group | None = None,
) -> None:
    """Learn the configured models from the home's fold store until `stop` is set; with a group, as its rank 0."""
    import torch  # here and not above, for the fold process does without

    config = config or LearnRunConfig()
    torch.set_num_threads(config.num_threads)
    names, configs = config.models, config.configs

    def build_models(store: Store) -> Mapping[str, Model]:
        models = open_models(store, names, seed, configs)
        if group is not None:
            group.lead(models)
        return models

    learn_models(home, stop, build_models, seed, config, metrics)


def learn_models(
    home: Path,
    stop: Event,
    build_models: Callable[[Store], Mapping[str, Model]],
    seed: int,
    config: LearnRunConfig,
    metrics: StageMetrics | None = None,
) -> None:
    """Learn models, built anew for each session, from the home's fold store, once there is one, until `stop` is set.

    `build_models` is given the learn store, which says what is being rebuilt.
    """
    told = metrics or StageMetrics("learn")

    def session(is_over: IsOver) -> None:
        _learn_session(home, is_over, build_models, np.random.default_rng([seed, *b"learn"]), config, told)

    run_sessions(home / "learn", stop, session, metrics=told)


def _learn_session(
    home: Path,
    is_over: IsOver,
    build_models: Callable[[Store], Mapping[str, Model]],
    rng: np.random.Generator,
    config: LearnRunConfig,
    metrics: StageMetrics,
) -> None:
    with ExitStack() as stack:
        store = stack.enter_context(Store(home / "learn", "learn", True, config.map_size_bytes))
        snapshots = Snapshots(store, home, config.snapshots)
        stack.callback(snapshots.close)
        fold_store = _await_store(home / "fold", is_over)
        if fold_store is None:
            return
        stack.enter_context(fold_store)
        folds = {FOLD_NAME: StoreSource(fold_store)}
        stage = LearnStage(store, folds, build_models(store), rng, config=config.stage)
        _require_folded(stage, fold_store)
        metrics.begin(stage.models, DETECTORS)
        _log.info("learn starts", extra={"version": stage.version, "offsets": stage.offsets})
        try:
            _learn_until(is_over, stage, _Stores(store, fold_store, snapshots, home / "log"), config, metrics)
        except Reopen as reason:
            _log.warning("learn opens its models anew: %s", reason)
        _log.info("learn stops", extra={"version": stage.version})


def _require_folded(stage: LearnStage, fold_store: Store) -> None:
    """What a fold store gives after a version that it does not have yet would be passed over."""
    learned = stage.fold_versions.get(FOLD_NAME, 0)
    with fold_store.read() as txn:
        folded = get_version(txn, fold_store, "fold")
    if learned > folded:
        raise StoreConfigurationChanged(
            f"store {fold_store.path} is at version {folded}, and {learned} of it were learned: it is not the one they "
            "came from. Put that one back, or restore both (`runnel up --from-snapshot DIR`)"
        )


class _Stores(NamedTuple):
    learn: Store
    fold: Store
    snapshots: Snapshots
    log_path: Path  # of the embedded log, where there is one


def _learn_until(
    is_over: IsOver, stage: LearnStage, stores: _Stores, config: LearnRunConfig, metrics: StageMetrics
) -> None:
    budget = TrainBudget(config.min_trained, config.commit_seconds)
    drift = DriftMonitor(config.drift)
    upkeep_at, clock = 0.0, RetentionClock()
    while not (is_over() or stores.fold.is_outdated):
        started_at, fold_version = monotonic(), stage.fold_versions.get(FOLD_NAME, 0)
        result = stage.step(now_ms(), budget.examples)
        stepped_at = monotonic()
        budget.spent(stepped_at - started_at, result.num_examples - result.num_sampled_out)
        seconds = stepped_at - started_at
        metrics.stepped(now_ms(), seconds, stores.learn.commit_seconds if result.num_deltas else None)
        if result.num_deltas:
            stamps = _stamps(stores.fold, fold_version, result.num_deltas)
            metrics.learned(stamps, now_ms(), result.losses, result.refused)
        _heed(drift.observe(result), stage, config.drift, stores.learn, metrics)
        if stepped_at >= upkeep_at:
            upkeep_at = stepped_at + config.upkeep_seconds
            metrics.keep()
            metrics.covered(stage.prequential.coverage())
            for name, progress in stage.rebuilds.progress(stage.prequential).items():
                _log.info("rebuild of model %s: %s", name, progress)
            stores.learn.reader_check()
            stores.snapshots.upkeep()
            trim_deltas(stores.learn, clock() - config.delta_retention_ms, stage.version)
            _trim_log(stores.log_path, stage.offsets.get(PARTITION, 0), clock() - config.event_retention_ms)
        pause(is_over, config.commit_seconds - (stepped_at - started_at))


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


def _stamps(fold_store: Store, after_version: int, num_deltas: int) -> list[int]:
    with fold_store.read() as txn:
        return DeltaLog(fold_store).stamps(txn, after_version, num_deltas)


def _await_store(path: Path, is_over: IsOver) -> Store | None:
    """The fold store, once the fold process has made it; None when the session is over before."""
    while not is_over():
        try:
            return Store(path, "fold")
        except StoreMissing:
            pause(is_over, 0.05)
    return None
