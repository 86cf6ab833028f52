# Prequential evaluation: the running system's two stages over a file, deterministically.
from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.base import Batch, Model
from models.configured import configs_of
from models.registry import build_models
from state.follower import StoreSource
from state.store import Store
from stream.evaluation_report import Evaluation, Point, SliceFigures, show, write
from stream.examples import ExampleConfig
from stream.fingerprint import fingerprint
from stream.fold import FoldConfig, FoldStage
from stream.learn import LearnConfig, LearnStage
from stream.prequential import PrequentialConfig
from stream.readers import ReadEvent, open_data_set
from stream.session_preq import PROTOCOL, SessionPreq, Tally
from stream.source import IterableSource

BATCH_EVENTS = 256  # events between two updates of the models
STEP_BATCHES = 32  # batches of one commit: what is on disk changes no figure
NUM_POINTS = 100  # of the running metric
MAP_SIZE_BYTES = 32 << 30


def run_evaluation(name: str, models: tuple[str, ...], data: Path, out: Path, limit: int | None, seed: int) -> None:
    """Evaluate `models` over the data set `name`, print the table, and write the report below `out`.

    Raises DataError for data that is absent or wrong, ValueError for an unknown model; both name it.
    """
    started = time.monotonic()
    torch.set_num_threads(1)  # sums in one order, whatever the number of cores: the figures do not depend on it
    built = build_models(models, seed)
    events, num_events = open_data_set(name, data, limit)
    console = Console()
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with bar, tempfile.TemporaryDirectory(prefix="runnel-evaluate-") as folder:
        protocol = SessionPreq(models)
        run, points = Run(Path(folder), built, protocol, seed), list[Point]()
        task, next_point = bar.add_task(f"{name}, {PROTOCOL}", total=num_events), num_events / NUM_POINTS
        for num_learned in run.steps(events):
            bar.update(task, completed=num_learned)
            if num_learned >= next_point:
                points += _points_since(run, protocol)
                next_point = num_learned + num_events / NUM_POINTS
        points += _points_since(run, protocol)
    evaluation = Evaluation(
        stream=name,
        protocol=PROTOCOL,
        events=run.num_events,
        tests=protocol.tests,
        seconds=run.span_seconds,
        config=_config(built, seed, limit),
        models=_metrics(protocol.totals),
        slices={part: _slice_figures(tallies) for part, tallies in protocol.slices.items()},
    )
    write(evaluation, points, out)
    show(evaluation, time.monotonic() - started, console)
    if run.num_rejected:
        console.print(f"{run.num_rejected:,} events broke a rule of the schema and were left out")
    console.print(f"wrote {out}/metrics.json, running.csv, slices.csv and running.png")


class Observer(Protocol):
    """What measures: it sees every batch before it is learned."""

    def observe(self, batch: Batch, models: Mapping[str, Model]) -> None:
        """Score the batch with the models as they stand."""
        ...


class Run:
    """One evaluation under way: the two stages over stores in `folder`, models updated every `batch_events` events.

    Of `config` stands what makes no difference between an evaluation and a running system.
    """

    def __init__(
        self,
        folder: Path,
        models: dict[str, Model],
        observer: Observer,
        seed: int,
        batch_events: int = BATCH_EVENTS,
        config: LearnConfig | None = None,
    ) -> None:
        self.folder, self.models, self.rng = folder, models, np.random.default_rng(seed)
        self.observer, self.batch_events = observer, batch_events
        self._config = config or LearnConfig()
        self.num_events = self.num_rejected = 0
        self._first_ms = self._last_ms = 0

    @property
    def span_seconds(self) -> float:
        """Event time from the first event to the last."""
        return (self._last_ms - self._first_ms) / 1000

    def steps(self, events: Iterator[ReadEvent]) -> Iterator[int]:
        """Fold and learn step by step, yielding the number of events learned so far."""
        max_events = self.batch_events * STEP_BATCHES
        # A test needs all of a session, so a record's whole sequence is read; each model cuts its own window from it.
        config = replace(
            self._config,
            batch_size=self.batch_events,
            max_entries_per_step=max_events,
            examples=ExampleConfig(max_entries=200),
            prequential=PrequentialConfig(rows_per_batch=0),
        )
        with (
            Store(self.folder / "fold", "fold", writer=True, map_size_bytes=MAP_SIZE_BYTES) as fold_store,
            Store(self.folder / "learn", "learn", writer=True, map_size_bytes=MAP_SIZE_BYTES) as learn_store,
        ):
            fold = FoldStage(
                fold_store, IterableSource(self._messages(events)), config=FoldConfig(max_events=max_events)
            )
            learn = LearnStage(learn_store, {"fold": StoreSource(fold_store)}, self.models, self.rng, config=config)
            while (folded := fold.step()).num_messages:
                self.num_rejected += folded.num_rejected
                self.num_events += learn.step(now=self._last_ms, observer=self.observer.observe).num_examples
                yield self.num_events

    def _messages(self, events: Iterator[ReadEvent]) -> Iterator[tuple[int, bytes]]:
        """The events in arrays, as a producer would pack them; the log's stamp is the newest event's time."""
        values: list[bytes] = []
        for event in events:
            self._first_ms = self._first_ms or event.timestamp
            self._last_ms = max(self._last_ms, event.timestamp)
            values.append(event.value)
            if len(values) == self.batch_events:
                yield self._last_ms, b"[" + b",".join(values) + b"]"
                values.clear()
        if values:
            yield self._last_ms, b"[" + b",".join(values) + b"]"


def _points_since(run: Run, protocol: SessionPreq) -> list[Point]:
    """The metrics since the points before."""
    return [Point(run.num_events, protocol.tests, *since) for since in protocol.take_since().items()]


def _metrics(tallies: Mapping[str, Tally]) -> dict[str, dict[str, float]]:
    return {model: tally.metrics() for model, tally in tallies.items()}


def _slice_figures(tallies: Mapping[str, Tally]) -> SliceFigures:
    return SliceFigures(max((tally.tests for tally in tallies.values()), default=0), _metrics(tallies))


def _config(models: Mapping[str, Model], seed: int, limit: int | None) -> dict[str, object]:
    """What was run, for metrics.json."""
    run = {"configuration": fingerprint(), "seed": seed, "limit": limit, "batch_events": BATCH_EVENTS}
    return run | configs_of(models)
