# A batch of kills of HTTP replicas whose events go to a real Kafka, then the comparison.
from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import numpy as np

from serving.ports import free_ports
from state.dump import dump
from state.store import Store
from stream.kafka_config import KafkaConfig
from stream.kafka_source import KafkaSource
from tests.brokers import Cluster
from tests.chaos.batch import Outcome
from tests.chaos.system_batch import NUM_LOADS, SETTLE_SECONDS, kill_replicas_at_random
from tests.commands.whole_system import HttpLoad, is_quiet, kill_everything, uninterrupted, up
from tests.serving.helpers import wait_until
from tests.stream.waiting import stored_offsets


def run_replica_batch(folder: Path, rng: np.random.Generator, num_kills: int) -> Outcome:
    """Kill replicas of a `runnel up --kafka` at random instants under HTTP load, in `folder`, which must be empty."""
    home, port, cluster = folder / "home", free_ports(1)[0], Cluster(folder / "kafka")
    config, loads = KafkaConfig(cluster.servers), list[HttpLoad]()
    try:
        cluster.config()  # waits for the broker
        with up(home, port, "--kafka", cluster.servers) as process:
            loads += [HttpLoad(port, int(seed)) for seed in rng.integers(1 << 30, size=NUM_LOADS)]
            kill_replicas_at_random(home, port, rng, num_kills)
            for load in loads:
                load.stop()
            wait_until(lambda: _is_settled(home, port, config), "all is learned and served", SETTLE_SECONDS)
            kill_everything(home, process)
        acknowledged = set[str]().union(*(load.acknowledged for load in loads))
        findings = [*_topic_findings(config, acknowledged), *_content_findings(home, config, folder / "uninterrupted")]
    finally:
        for load in loads:
            load.stop()
        cluster.close()
    return Outcome(num_kills, sum(stored_offsets(home / "fold", "fold").values()), findings)


def _is_settled(home: Path, port: int, config: KafkaConfig) -> bool:
    with closing(KafkaSource(config)) as source, suppress(httpx.HTTPError, KeyError):
        return is_quiet(port) and stored_offsets(home / "learn", "learn") == source.end_offsets()
    return False


def _topic_findings(config: KafkaConfig, acknowledged: set[str]) -> Iterator[str]:
    found = set[str]()
    with closing(KafkaSource(config)) as source:
        ends = {partition: end for partition, end in source.end_offsets().items() if end > 0}
        for partition in source.partitions():
            source.seek(partition, None)
        while ends:
            for message in source.poll(1000, 1.0):
                if message.offset + 1 == ends.get(message.partition):
                    del ends[message.partition]
                events = json.loads(message.value)
                for event in events if isinstance(events, list) else [events]:
                    found.add(event.get("event_id", ""))
    yield from (f"topics: {each} was acknowledged and is not there" for each in sorted(acknowledged - found)[:5])
    if len(acknowledged) < 100:
        yield f"topics: {len(acknowledged)} events were acknowledged: there was no load"


def _content_findings(home: Path, config: KafkaConfig, base: Path) -> Iterator[str]:
    with closing(KafkaSource(config)) as source:
        expected = uninterrupted(source, base)
    for name, parts in expected.items():
        with Store(home / name) as store:
            yield from (f"{name}: {finding}" for finding in store.verify())
            found = dump(store)
        different = [part for part in parts.keys() | found.keys() if found.get(part) != parts.get(part)]
        yield from (f"{name}: {part} differs from that of an uninterrupted run" for part in different)
