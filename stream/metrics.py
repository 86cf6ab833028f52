# All metric instruments of a stage's process. The loop around the stage observes; the stage itself knows nothing of it.
from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from state.slots import FRESH_SECONDS, Slot
from state.store import Stage

_STEP_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class StageMetrics:
    """Prometheus instruments of one stage, on a registry of their own.

    With a slot they are also told at the node's one endpoint; take it before this is made.
    """

    def __init__(self, stage: Stage, slot: Slot | None = None) -> None:
        # A gauge is set by this process alone; "mostrecent" does not show it before it is set.
        self._slot, self.registry = slot, CollectorRegistry()
        self._step_at = self._gauge("runnel_stage_step_timestamp_seconds", "When the stage last finished a step", stage)
        self._step_seconds = self._histogram(
            "runnel_stage_step_seconds", "Time of a step that had something to do", _STEP_SECONDS, stage
        )
        self._commit_seconds = self._histogram(
            "runnel_stage_commit_seconds", "Part of a step: writing, delta included, and sync", _STEP_SECONDS, stage
        )
        self._ends = Gauge(
            "runnel_source_end_offset",
            "Offset that the next message of a partition will get",
            ["partition"],
            registry=self.registry,
            multiprocess_mode="mostrecent",
        )
        self.failures = Counter(
            "runnel_stage_failures", "Steps that failed and are tried again", ["stage"], registry=self.registry
        ).labels(stage)
        self._to_record = self._histogram(
            "runnel_event_to_recommendation_seconds",
            "From the log's stamp of an event until a request finds it (session), or a version that learned it (model)",
            FRESH_SECONDS,
            "session",
            label="path",
        )
        self._to_version = Histogram(
            "runnel_event_to_version_seconds",
            "From the log's stamp of an event to the commit of the version that learned it",
            registry=self.registry,
            buckets=FRESH_SECONDS,
        )
        self._loss = Gauge(
            "runnel_model_loss",
            "Mean loss of the last step's examples",
            ["model"],
            registry=self.registry,
            multiprocess_mode="mostrecent",
        )
        self._refused = Counter(
            "runnel_refused_updates",
            "Batches of which a model refused an update, because a gradient was not finite",
            ["model"],
            registry=self.registry,
        )
        self._coverage = Gauge(
            "runnel_model_coverage_ratio",
            "Share of its items that stand in the top of a model's newest lists",
            ["model"],
            registry=self.registry,
            multiprocess_mode="mostrecent",
        )
        self._drift_alarms = Counter(
            "runnel_drift_alarms",
            "How often a detector told that a model's live metric got worse",
            ["model", "detector"],
            registry=self.registry,
        )

    def stepped(self, now_ms: int, step_seconds: float, commit_seconds: float | None) -> None:
        """A step is done; None: it found nothing to do, and committed nothing."""
        self._step_at.set(now_ms / 1000)
        if commit_seconds is not None:
            self._step_seconds.observe(step_seconds)
            self._commit_seconds.observe(commit_seconds)

    def folded(self, received_at: int, now_ms: int) -> None:
        """A fold commit is done whose oldest message was received then."""
        self._to_record.observe(max(0, now_ms - received_at) / 1000)

    def ends(self, offsets: Mapping[str, int]) -> None:
        """How far each partition of the source goes, every few seconds."""
        for partition, offset in offsets.items():
            self._ends.labels(partition).set(offset)

    def begin(self, models: Iterable[str], detectors: Iterable[str]) -> None:
        """These models are learned from now on. What counts of them begins at 0: an alert sees the first one rise."""
        for model in models:
            self._refused.labels(model)
            for detector in detectors:
                self._drift_alarms.labels(model, detector)

    def learned(
        self, received_at: Iterable[int], now_ms: int, losses: Mapping[str, float], refused: Mapping[str, int]
    ) -> None:
        """A learn commit is done; each of the fold commits that it learned has the stamp of its newest message."""
        for stamp in received_at:
            self._to_version.observe(max(0, now_ms - stamp) / 1000)
        for model, loss in losses.items():
            self._loss.labels(model).set(loss)
        for model, count in refused.items():
            self._refused.labels(model).inc(count)

    def covered(self, coverage: Mapping[str, float]) -> None:
        """What the newest lists of each model cover, every few seconds."""
        for model, share in coverage.items():
            self._coverage.labels(model).set(share)

    def drifted(self, model: str, detector: str) -> None:
        """A detector raised an alarm."""
        self._drift_alarms.labels(model, detector).inc()

    def keep(self) -> None:
        """See that the slot is there, every few seconds."""
        if self._slot is not None:
            self._slot.keep()

    def _gauge(self, name: str, text: str, stage: Stage) -> Gauge:
        return Gauge(name, text, ["stage"], registry=self.registry, multiprocess_mode="mostrecent").labels(stage)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], value: str, label: str = "stage"
    ) -> Histogram:
        return Histogram(name, text, [label], registry=self.registry, buckets=buckets).labels(value)
