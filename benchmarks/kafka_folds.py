# How much faster do two folds fold a filled topic than one?
"""python -m benchmarks.kafka_folds --json kafka_folds.json

A real Kafka of one node, a topic of two partitions with Globo's clicks in messages of 100, half of them in each. One
fold process reads both partitions, or two read one each, at the same time: polled, decoded, folded and durable, into
empty stores. Events a second from the moment that all are ready until the last has folded its share; `share` is two
over twice one. The broker works on the same two cores.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import typer
from kafka import KafkaProducer

from benchmarks.brokers import local_kafka
from benchmarks.fold import packed
from benchmarks.report import Row, conditions, report
from state.store import Store
from stream.fold import FoldStage
from stream.kafka_config import KafkaConfig
from stream.kafka_source import KafkaSource
from stream.readers import open_data_set

LIMIT = {"share of linear": 0.8}
_PACK = 100


class _Barrier(Protocol):
    def wait(self) -> int: ...


def fold(config: KafkaConfig, number: int, num_folds: int, folder: Path, barrier: _Barrier) -> None:
    """One fold process: its share of the topic, from the first barrier to the second."""
    with (
        Store(folder / f"{number}-of-{num_folds}", "fold", writer=True) as store,
        closing(KafkaSource(config, number, num_folds)) as source,
    ):
        stage, ends = FoldStage(store, source), source.end_offsets()
        barrier.wait()
        while any(stage.offsets.get(partition, 0) < end for partition, end in ends.items()):
            stage.step(0.1)
        barrier.wait()


def seconds_of(config: KafkaConfig, num_folds: int, folder: Path) -> float:
    """Of so many processes, once all are ready."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(num_folds + 1)
    workers = [
        context.Process(target=fold, args=(config, number, num_folds, folder, barrier)) for number in range(num_folds)
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    started = time.perf_counter()
    barrier.wait()
    seconds = time.perf_counter() - started
    for worker in workers:
        worker.join()
    return seconds


def fill(config: KafkaConfig, values: list[tuple[int, bytes]]) -> None:
    """Half of the messages to each partition."""
    with closing(KafkaProducer(**config.client_settings({"linger_ms": 20, "batch_size": 1 << 18}))) as producer:
        sent = [
            producer.send(config.topics.events, value, partition=place % 2) for place, (_, value) in enumerate(values)
        ]
        for each in sent:
            each.get(60)


def _row(rates: list[float]) -> Row:
    return {"events/s": round(float(np.median(rates))), "spread": f"{min(rates):,.0f}..{max(rates):,.0f}"}


def main(
    data: Annotated[Path, typer.Option(envvar="RUNNEL_DATA")] = Path("../shared/data"),
    events: int = 400_000,
    runs: int = 5,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """One and two, taking turns."""
    clicks = [(event.timestamp, event.value) for event in open_data_set("globo", data, events)[0]]
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="runnel-folds-") as path, local_kafka(Path(path) / "kafka", 2) as make:
        config = make("runnel")
        fill(config, packed(clicks, _PACK))
        for run in range(runs):
            for num_folds, found in rates.items():
                folder = Path(path) / f"{run}-{num_folds}"
                folder.mkdir()
                found.append(events / seconds_of(config, num_folds, folder))
    results: dict[str, Row] = {f"{num_folds} folds": _row(found) for num_folds, found in rates.items()}
    share = float(np.median(rates[2])) / (2 * float(np.median(rates[1])))
    results["2 folds"] = {**results["2 folds"], "share of linear": share}
    report("kafka_folds", conditions(events=events, runs=runs, pack=_PACK), results, LIMIT, json_file)


if __name__ == "__main__":
    typer.run(main)
