# How much faster does a follower catch up from Kafka's topics than the stages made what it folds?
"""python -m benchmarks.kafka_follow --json kafka_follow.json

Both stages take Globo's clicks at their cadence of 1,000 events/s (as `benchmarks.versions` does, whose costs are the
stages' rates here: time spent, not waited), and their deltas are shipped to the topics of a real Kafka. Then a new
follower reads them from the broker, decodes, folds and commits them, up to the last one, each run into an empty store.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.brokers import local_kafka
from benchmarks.report import Row, conditions, report
from benchmarks.versions import System
from state.follower import LEARN, Follower
from state.signals import SignalTable
from state.store import Store
from stream.delta_topics import DeltaTopics
from stream.kafka_config import KafkaConfig
from stream.readers import open_data_set
from stream.run import FOLD_NAME
from stream.run_learn import LearnRunConfig
from stream.shipped import fold_key, fold_keys
from stream.shipper import Shipper

LIMIT = {"times both": 5}


def ship(system: System, config: KafkaConfig) -> float:
    """Ship all deltas; seconds."""
    started = time.perf_counter()
    for store, name, key in (
        (system.stores["fold"], FOLD_NAME, fold_key(0, 1)),
        (system.stores["learn"], LEARN, LEARN),
    ):
        with closing(Shipper(store, config, name, key)) as shipper:
            while shipper.step():
                pass
    return time.perf_counter() - started


def catch_up(config: KafkaConfig, folder: Path, ends: dict[str, int]) -> float:
    """Seconds of a new follower until it holds these versions."""
    with (
        Store(folder, "follow", writer=True) as store,
        closing(DeltaTopics(config, fold_keys(1) | {LEARN: LEARN})) as topics,
    ):
        follower = Follower(store, SignalTable(), folds=[FOLD_NAME])
        started = time.perf_counter()
        while any(follower.version(name) < end for name, end in ends.items()):
            if not sum(follower.step(name, source, 0) for name, source in topics.sources.items()):
                topics.wait(0.1)
        return time.perf_counter() - started


def main(
    data: Annotated[Path, typer.Option(envvar="RUNNEL_DATA")] = Path("../shared/data"),
    events: int = 30_000,
    runs: int = 5,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Make, ship, catch up."""
    torch.set_num_threads(LearnRunConfig().num_threads)
    with tempfile.TemporaryDirectory(prefix="runnel-follow-") as path, local_kafka(Path(path) / "kafka") as make:
        folder, config = Path(path), make("runnel")
        system = System(folder)
        system.take((event.value for event in open_data_set("globo", data)[0]), events)
        spent = {name: sum(cost.steps) / 1000 for name, cost in system.costs.items() if name != "log"}
        shipping = ship(system, config)
        ends = {FOLD_NAME: system.fold.version, LEARN: system.learn.version}
        seconds = [catch_up(config, folder / f"follow-{run}", ends) for run in range(runs)]
    both = sum(spent.values())
    results: dict[str, Row] = {name: {"events/s": round(events / took)} for name, took in spent.items()}
    results["fold and learn"] = {"events/s": round(events / both)}
    results["shipped"] = {"events/s": round(events / shipping), "times both": both / shipping}
    spread = f"{events / max(seconds):,.0f}..{events / min(seconds):,.0f}"
    middle = float(np.median(seconds))
    results["follower"] = {"events/s": round(events / middle), "spread": spread, "times both": both / middle}
    report("kafka_follow", conditions(events=events, runs=runs), results, LIMIT, json_file)


if __name__ == "__main__":
    typer.run(main)
