# What the log and the stores of a home tell at a scrape: also how far behind a stage is that no longer runs.
from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import lmdb
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from models.base import Model
from models.tables import RowTable
from state.deltas import DeltaLog
from state.home import Home
from state.meta import get_held, get_version
from state.offsets import LEARNED, get_offsets, get_totals
from state.rows import read_models
from state.slots import read_slots
from state.store import Stage, Store, StoreError, Txn
from state.view import View
from stream.log import PARTITION, EventLog

_END_OFFSET = "runnel_source_end_offset"
_PARTS = ("log", "fold", "learn", "follow", "snapshots", "run")
Samples = dict[tuple[str, ...], float]  # by the values of the labels


@dataclass
class _Facts:
    """What the stores tell, each of its last commit."""

    version: Samples = field(default_factory=dict)
    offsets: dict[str, dict[str, int]] = field(default_factory=dict)  # of a stage, by partition
    read_last: dict[str, int] = field(default_factory=dict)  # the log's stamp of what a stage has read last
    folded: Samples = field(default_factory=dict)
    learned: Samples = field(default_factory=dict)
    sampled_out: Samples = field(default_factory=dict)
    held: Samples = field(default_factory=dict)
    hit_rate: Samples = field(default_factory=dict)
    readers: Samples = field(default_factory=dict)
    pinned: Samples = field(default_factory=dict)

    def read(self, txn: Txn, store: Store, stage: Stage) -> None:
        """Take in what the store of a stage tells."""
        self.version[(stage,)] = get_version(txn, store, stage)
        self.offsets[stage] = get_offsets(txn, store, stage)
        self.readers[(stage,)], self.pinned[(stage,)] = store.readers()
        totals = get_totals(txn, store)
        last = DeltaLog(store, stage)
        stamps = last.stamps(txn, last.last(txn) - 1, 1)
        self.read_last |= {stage: stamps[0]} if stamps else {}
        if stage == "fold":
            self.folded |= {key: count for key, count in totals.items() if key[1] != LEARNED}
            return
        self.learned |= {(kind,): count for (kind, outcome), count in totals.items() if outcome == LEARNED}
        self.sampled_out[()] = store.get_meta(txn, "sampled_out", int) or 0
        held = get_held(txn, store)
        self.held |= {(model,): model in held for model in read_models(txn, store)}
        sums = store.get_meta(txn, "prequential", dict[str, tuple[float, float]]) or {}
        self.hit_rate |= {(model,): hits / tests for model, (tests, hits) in sums.items() if tests > 0}


class HomeMetrics:
    """A prometheus_client collector. What a store counts is exact and outlives every process.

    A store that is not there, or cannot be read, has no samples; its families stay.
    """

    def __init__(self, home: Path, view: View[Model], log: EventLog | None, clock: Callable[[], int]) -> None:
        """`log`: the home's own, None where it reads Kafka."""
        self._home, self._view, self._log, self._clock = home, view, log, clock

    def collect(self) -> Iterator[Metric]:
        """All families, with the samples that can be had now."""
        with self._view.read():  # a store that was compacted stays open meanwhile
            facts = self._read_stores()
        yield from self._stages(facts)
        counts = "Events folded, by type and by what became of them"
        yield _counter("runnel_events", counts, ("type", "outcome"), facts.folded)
        yield _counter("runnel_events_learned", "Events learned, by signal", ("type",), facts.learned)
        sampled_out = "Events learned that gradient models did not train on"
        yield _counter("runnel_examples_sampled_out", sampled_out, (), facts.sampled_out)
        yield _gauge("runnel_model_hit_ratio", "Fading prequential hit rate of the top 10", ("model",), facts.hit_rate)
        yield _gauge("runnel_model_held", "1 where a model stands still, for it went wrong", ("model",), facts.held)
        with self._view.read() as home:
            yield _rows(home)
        yield _gauge("runnel_store_readers", "Reader slots of a store that are taken", ("store",), facts.readers)
        pinned = "Commits since the oldest reading of a store began"
        yield _gauge("runnel_store_pinned_commits", pinned, ("store",), facts.pinned)
        sizes: Samples = {(part,): _disk_bytes(self._home / part) for part in _PARTS}
        yield _gauge("runnel_disk_bytes", "Disk that a part of the home takes", ("part",), sizes)
        yield _gauge("runnel_disk_free_bytes", "Disk free for the home", (), {(): shutil.disk_usage(self._home).free})

    def _stages(self, facts: _Facts) -> Iterator[Metric]:
        ends = self._end_offsets()
        lag: Samples = {(stage,): _num_behind(offsets, ends) for stage, offsets in facts.offsets.items() if ends}
        events_each = sum(facts.folded.values()) / max(1, sum(facts.offsets.get("fold", {}).values()))
        events: Samples = {stage: messages * events_each for stage, messages in lag.items()}
        waiting: Samples = {(stage,): self._seconds_waiting(stage, facts, behind) for (stage,), behind in lag.items()}
        held: Samples = {} if self._log is None else {(): self._log.end_offset() - self._log.begin_offset()}
        yield _gauge("runnel_log_messages", "Messages that the event log holds", (), held)
        yield _gauge("runnel_stage_version", "Version of a stage's last commit", ("stage",), facts.version)
        yield _gauge("runnel_stage_lag_messages", "Messages in the log that a stage has not read", ("stage",), lag)
        about = "Events in them, as many to a message as in all that were folded"
        yield _gauge("runnel_stage_lag_events", about, ("stage",), events)
        yield _gauge("runnel_stage_lag_seconds", "How long the oldest of them has been there", ("stage",), waiting)

    def _end_offsets(self) -> Mapping[str, int]:
        """Of each partition; of Kafka's as the fold process told a moment ago, none where it does not run."""
        if self._log is not None:
            return {PARTITION: self._log.end_offset()}
        told = [metric for metric in read_slots(self._home / "run" / "metrics") if metric.name == _END_OFFSET]
        return {sample.labels["partition"]: int(sample.value) for metric in told for sample in metric.samples}

    def _seconds_waiting(self, stage: str, facts: _Facts, num_behind: float) -> float:
        """How long the oldest message that a stage has not read has been there; with Kafka how long ago it came that
        was read last, which is a little more."""
        if self._log is not None:
            return self.seconds_since(facts.offsets[stage].get(PARTITION, 0)) or 0.0
        return max(0, self._clock() - facts.read_last[stage]) / 1000 if num_behind and stage in facts.read_last else 0.0

    def seconds_since(self, offset: int) -> float | None:
        """Since the log received the message at `offset`, None where there is none."""
        if self._log is None:
            return None
        messages = self._log.read(offset, 1)
        if not messages or messages[0].offset != offset:
            return None
        return max(0, self._clock() - messages[0].received_at) / 1000

    def _read_stores(self) -> _Facts:
        facts, stores = _Facts(), (("fold", self._view.fold_store), ("learn", self._view.learn_store))
        for stage, store in stores:
            if store is None:
                continue
            try:
                with store.read() as txn:
                    facts.read(txn, store, "fold" if stage == "fold" else "learn")
            except (StoreError, lmdb.Error):
                continue
        return facts


def _num_behind(offsets: Mapping[str, int], ends: Mapping[str, int]) -> int:
    return sum(max(0, end - offsets.get(partition, 0)) for partition, end in ends.items())


def _rows(home: Home[Model]) -> Metric:
    rows: Samples = {}
    for name, model in home.models.items():
        for table_name, table in model.tables.items():
            rows[name, table_name] = float(table.present.sum()) if isinstance(table, RowTable) else len(table.rows)
    return _gauge("runnel_model_rows", "Rows that a model's table holds", ("model", "table"), rows)


def _gauge(name: str, text: str, labels: tuple[str, ...], samples: Samples) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def _counter(name: str, text: str, labels: tuple[str, ...], samples: Samples) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def _disk_bytes(path: Path) -> int:
    """What the files below a path take on disk, which of a file with holes is less than its size."""
    total = 0
    with contextlib.suppress(FileNotFoundError):  # a folder that is deleted just now
        for file in path.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                total += file.lstat().st_blocks * 512
    return total
