# How many events a second go from a Kafka topic through the fold into LMDB, beside reading alone and folding alone?
"""Starts a real Kafka of one node on the same machine, fills a topic, and reads it again and again:

    python -m benchmarks.kafka_ingest --json kafka_ingest.json

`poll` is kafka-python's consumer reading the topic and doing nothing with it, `fold` the stage folding the same values
from memory, `ingest` both together: polled, decoded, folded and durable, in an empty store each run. Globo's clicks in
their order; `x1` and `x100` say how many events a message holds. *share* is ingest over what the limit names: for
`x1` one after the other takes 1 / (1 / poll + 1 / fold), for `x100` it is the fold alone.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from benchmarks.brokers import local_kafka
from benchmarks.fold import Values, packed
from benchmarks.report import Row, conditions, report
from state.store import Store
from stream.fold import FoldStage
from stream.kafka_config import KafkaConfig
from stream.kafka_source import KafkaSource
from stream.readers import open_data_set
from stream.source import EventSource, IterableSource

LIMIT = {"x1 share": 0.75, "x100 share": 0.8}


def fill(config: KafkaConfig, values: Values) -> None:
    """Produce every value."""
    producer = KafkaProducer(**config.client_settings({"linger_ms": 20, "batch_size": 1 << 18}))
    sent = [producer.send(config.topics.events, value) for _, value in values]
    for each in sent:
        each.get(60)
    producer.close()


def poll_seconds(config: KafkaConfig, num_messages: int) -> float:
    """Of a consumer that reads them all."""
    consumer = KafkaConsumer(**config.client_settings({"enable_auto_commit": False, "max_poll_records": 5_000}))
    partition = TopicPartition(config.topics.events, 0)
    consumer.assign([partition])
    consumer.seek(partition, 0)
    started, found = time.perf_counter(), 0
    while found < num_messages:
        found += sum(map(len, consumer.poll(1_000).values()))
    seconds = time.perf_counter() - started
    consumer.close()
    return seconds


def fold_seconds(folder: Path, source: EventSource, num_messages: int) -> float:
    """Of a stage that folds them all into an empty store."""
    with Store(folder, "fold", writer=True) as store:
        stage = FoldStage(store, source)
        started, found = time.perf_counter(), 0
        while found < num_messages:
            found += stage.step(1.0).num_messages
        return time.perf_counter() - started


def measure(config: KafkaConfig, values: Values, num_events: int, folder: Path, runs: int) -> Row:
    """Figures of one topic, the three taking turns."""
    fill(config, values)
    rates: dict[str, list[float]] = {"poll": [], "fold": [], "ingest": []}
    for run in range(runs):
        rates["poll"].append(num_events / poll_seconds(config, len(values)))
        rates["fold"].append(num_events / fold_seconds(folder / f"fold-{run}", IterableSource(values), len(values)))
        with closing(KafkaSource(config)) as source:
            rates["ingest"].append(num_events / fold_seconds(folder / f"ingest-{run}", source, len(values)))
    figures = {name: round(float(np.median(found))) for name, found in rates.items()}
    spread = f"{min(rates['ingest']):,.0f}..{max(rates['ingest']):,.0f}"
    both = 1 / (1 / figures["poll"] + 1 / figures["fold"])
    limited_by = both if len(values) == num_events else figures["fold"]
    return {**figures, "spread": spread, "one after the other": round(both), "share": figures["ingest"] / limited_by}


def main(
    data: Annotated[Path, typer.Option(envvar="RUNNEL_DATA")] = Path("../shared/data"),
    events: int = 100_000,
    runs: int = 5,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure both packings."""
    clicks = [(event.timestamp, event.value) for event in open_data_set("globo", data, events)[0]]
    results: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(prefix="runnel-kafka-") as path, local_kafka(Path(path) / "kafka") as make_topics:
        folder = Path(path)
        for pack in (1, 100):
            values = packed(clicks, pack)
            results[f"x{pack}"] = measure(make_topics(f"x{pack}"), values, events, folder / f"x{pack}", runs)
    report("kafka_ingest", conditions(events=events, runs=runs, partitions=1), results, LIMIT, json_file)


if __name__ == "__main__":
    typer.run(main)
