# How many events a second does a learn group learn? The same stream by one rank and by two, with a thread each.
"""Folds a stream once, then has a learn stage with its group learn it (some three minutes on a quiet machine):

    python -m benchmarks.learn_ranks --json learn_ranks.json

Streams are those of `benchmarks.learn`; `wide` is a transformer of two layers of width 128 that reads 50 entries and is
learned 320 examples a step. `1 rank` is the stage without a group; `gradients` is the share of its time that goes into
what ranks divide. Were nothing lost to the group, k ranks were faster by `bound`: 1 / (1 - gradients + gradients / k).
What is lost: what a step costs whatever its number of examples, the steps sent and the gradients sent back, and cores
that are not there, for a rank is a process that wants one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer

from benchmarks.learn import fold_all, rates, stage_of, values_of
from benchmarks.report import Figure, Row, conditions, report
from commands.ranks import join
from models.attention import Encoder
from models.base import Model
from models.optimizer import FlatWeights
from models.registry import build_models
from models.step import Gradient, Step
from models.transformer import Transformer
from state.store import Store


class Case(NamedTuple):
    """What learns which stream."""

    stream: str
    model: str
    transformer: dict[str, object]  # what it has that is not the default


CASES = {
    "globo, whole set": Case("globo", "blend", {}),
    "full length, whole set": Case("full", "blend", {"window": 50}),
    "full length, wide": Case("full", "transformer", {"window": 50, "width": 128, "num_layers": 2, "max_step": 320}),
}
LIMIT: dict[str, Figure] = {"2 ranks": "bound"}
NUM_RANKS = (1, 2)


class Timed:
    """Has a model's gradients computed as before, and sums up the seconds."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self.seconds = 0.0
        for model in models.values():
            if isinstance(model, Transformer):
                self._compute, model.compute = model.compute, self.compute

    def compute(self, encoder: Encoder, weights: FlatWeights, step: Step) -> Gradient:
        """The gradient."""
        started = time.perf_counter()
        gradient = self._compute(encoder, weights, step)
        self.seconds += time.perf_counter() - started
        return gradient


def main(
    data: Annotated[Path, typer.Option(envvar="RUNNEL_DATA")] = Path("../shared/data"),
    before: Annotated[int, typer.Option(help="Events learned first, most without gradients, and not timed.")] = 20_000,
    events: Annotated[int, typer.Option(help="Events of one round.")] = 4_000,
    rounds: int = 3,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
    measured: Annotated[str | None, typer.Option(hidden=True, help="Be a rank, and measure this case.")] = None,
    folder: Annotated[Path, typer.Option(hidden=True, help="Where that case's fold store is.")] = Path(),
) -> None:
    """Measure every case by one rank and by two."""
    if measured is not None:
        measure(folder, CASES[measured], before, events, rounds)
        return
    results: dict[str, Row] = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory(prefix="runnel-ranks-") as made:
            with Store(Path(made) / "fold", "fold", writer=True) as fold:
                fold_all(fold, values_of(case.stream, data, before + (rounds + 2) * events))
            options = ["--before", before, "--events", events, "--rounds", rounds, "--measured", name, "--folder", made]
            found = {num: by_ranks(num, [str(option) for option in options]) for num in NUM_RANKS}
        share = found[1]["gradients"]
        for num, row in found.items():
            faster = {"times": row["events/s"] / found[1]["events/s"], "bound": 1 / (1 - share + share / num)}
            results[f"{name}, {num} rank{'s' * (num > 1)}"] = {**row, **faster}
    report(
        "learn_ranks",
        conditions(before=before, events=events, rounds=rounds, threads=1),
        results,
        LIMIT,
        json_file,
    )


def by_ranks(num: int, options: list[str]) -> dict[str, float]:
    """What a group of so many ranks measured, in processes of their own."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num}"] if num > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, "-m", "benchmarks.learn_ranks", *options]
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    found: dict[str, float] = json.loads(out)
    return found


def measure(folder: Path, case: Case, before: int, events: int, rounds: int) -> None:
    """Learn as rank 0, or without a group, and print figures; or help."""
    torch.set_num_threads(1)
    group = join()
    if group is not None and group.rank:
        group.help()
        return
    models = build_models([case.model], configs={"transformer": case.transformer})
    if group is not None:
        group.lead(models)
    timed, size = Timed(models), 1 if group is None else group.size
    with Store(folder / "fold", "fold") as fold, Store(folder / f"learn-{size}", "learn", writer=True) as store:
        stage = stage_of(fold, store, models)
        rates(stage, None, before, events, 0)
        timed.seconds, started = 0.0, time.perf_counter()
        found = rates(stage, None, 0, events, rounds)
        share = timed.seconds / (time.perf_counter() - started)
    print(
        json.dumps({"events/s": float(np.median(found)), "least": min(found), "most": max(found), "gradients": share})
    )
    if group is not None:
        group.stop()


if __name__ == "__main__":
    typer.run(main)
