# How many events a second do the models learn? Each alone, the counters together, the whole set; Globo and full length.
"""Folds a stream once, then lets the learn stage (records, replay, prequential test, commits and all) learn it:

    python -m benchmarks.learn --json learn.json

`globo` has the data set's own sessions (about three clicks); `full` has users of more than 50 entries each and models
of width 64 that read all 50. `no model` is the stage with nothing to learn: the limit of every row. `lag`
is the whole set with gradients for a sample alone, as a learner works off a backlog.

Learned while optimising: most of a counter's time was Python per example; most of the blend's is ranking the whole
catalogue for its candidates, which other models' tests share.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.made_home import Clicks
from benchmarks.report import Figure, Row, conditions, report
from models.base import Model
from models.configured import Configs
from models.registry import build_models
from state.dictionary import Dictionary
from state.follower import StoreSource
from state.store import Store
from stream.fold import FoldConfig, FoldStage
from stream.learn import LearnConfig, LearnStage
from stream.readers import open_data_set
from stream.source import IterableSource

COUNTERS = ("popularity", "recent", "trending", "covisitation")
TRAINED = ("item2vec", "ai2v", "conet", "transformer")
WHOLE_HISTORY: Configs = {"ai2v": {"window": 50}, "transformer": {"window": 50}}
LIMIT: dict[str, Figure] = {"counters": 50_000, "globo whole set": 1_000, "full length": "reported"}
_PACK = 500  # events of one value
_STEP = 2_000  # entries of one commit


@dataclass(frozen=True)
class Case:
    """What learns a stream. `max_trained` examples of a step have gradients; None: all."""

    models: tuple[str, ...]
    max_trained: int | None = None
    configs: Configs = field(default_factory=dict)  # what differs from the models' defaults


CASES: dict[str, dict[str, Case]] = {
    "globo": {
        "no model": Case(()),
        **{name: Case((name,)) for name in (*COUNTERS, *TRAINED)},
        "counters": Case(COUNTERS),
        "whole set": Case(("blend",)),
        "whole set, lag": Case(("blend",), max_trained=_STEP // 8),
    },
    "full": {
        **{name: Case((name,), configs=WHOLE_HISTORY) for name in TRAINED},
        "whole set": Case(("blend",), configs=WHOLE_HISTORY),
    },
}


def main(
    data: Annotated[Path, typer.Option(envvar="RUNNEL_DATA")] = Path("../shared/data"),
    before: Annotated[int, typer.Option(help="Events learned first, most without gradients, and not timed.")] = 100_000,
    events: Annotated[int, typer.Option(help="Events of one round.")] = 6_000,
    rounds: int = 5,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure every case over `rounds` rounds, one after the other in the stream."""
    torch.set_num_threads(1)  # as the learn process
    results: dict[str, Row] = {}
    for stream, cases in CASES.items():
        with tempfile.TemporaryDirectory(prefix="runnel-learn-") as folder:
            values = values_of(stream, data, before + (rounds + 1) * events)
            with Store(Path(folder) / "fold", "fold", writer=True) as fold:
                num_items = fold_all(fold, values)
                for name, case in cases.items():
                    with Store(Path(folder) / name, "learn", writer=True) as store:
                        found = rates(
                            stage_of(fold, store, build_models(case.models, configs=case.configs)),
                            case.max_trained,
                            before,
                            events,
                            rounds,
                        )
                    row: Row = {"events/s": float(np.median(found)), "spread": f"{min(found):,.0f}..{max(found):,.0f}"}
                    results[f"{stream} {name}"] = {**row, "items": num_items}
    told = conditions(
        before=before, events=events, rounds=rounds, threads=1, step=_STEP, replay=LearnConfig.replay_ratio
    )
    report("learn", told, results, LIMIT, json_file)


def values_of(stream: str, data: Path, num_events: int) -> Iterator[tuple[int, bytes]]:
    """(received_at, value) of the stream's events in arrays."""
    if stream == "globo":
        clicks, _ = open_data_set("globo", data, num_events)
        events = ((click.timestamp, click.value) for click in clicks)
    else:
        at = 1_763_649_000_000
        drawn = Clicks(20_000, num_events // 150).drawn(num_events, at)
        events = ((at, event) for event in drawn)
    while packed := list(islice(events, _PACK)):
        yield max(at for at, _ in packed), b"[" + b",".join([event for _, event in packed]) + b"]"


def fold_all(store: Store, values: Iterator[tuple[int, bytes]]) -> int:
    """Fold everything; the number of items met."""
    fold = FoldStage(store, IterableSource(values), config=FoldConfig(max_events=_PACK))
    while fold.step().num_messages:
        pass
    return len(Dictionary(store))


def stage_of(fold: Store, store: Store, models: Mapping[str, Model]) -> LearnStage:
    """A stage that learns what the fold store holds, in steps of a size."""
    config = LearnConfig(max_entries_per_step=_STEP)
    return LearnStage(store, {"fold": StoreSource(fold)}, models, np.random.default_rng(0), config=config)


def rates(stage: LearnStage, max_trained: int | None, before: int, events: int, rounds: int) -> list[float]:
    """Events learned a second in each round, after `before` events on a small sample and one round like the others."""
    learn(stage, before, 32)
    learn(stage, events, max_trained)
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        found.append(learn(stage, events, max_trained) / (time.perf_counter() - started))
    return found


def learn(stage: LearnStage, num_events: int, max_trained: int | None) -> int:
    """Step until so many events are learned; how many were."""
    learned = 0
    while learned < num_events:
        step = stage.step(0, max_trained)
        if step.num_deltas == 0:
            break
        learned += step.num_examples
    return learned


if __name__ == "__main__":
    typer.run(main)
