# What versions cost: bytes of deltas, bytes written to disk, and how fast a follower takes them.
"""Run (two to three minutes):

    python -m benchmarks.versions --json versions.json

Both stages run in one process over Globo's clicks at the real cadence of a system that gets 1,000 events a second: the
fold commits every 20 events (20 ms), the learner, with all models of the blend, every 400 (0.4 s). Nothing waits, so a
figure is per event, and a rate is that times 1,000. `warm` events come first, unmeasured. Then a follower folds both
logs from the middle on into a store of its own.

`wire` counts the messages of the deltas log, dense weights included. `written` are the bytes that the process gave to
write calls (`wchar` of /proc/self/io): LMDB writes each page once a commit and syncs, so they are what the disk gets.
(`write_bytes` counts the whole large folio of the page cache that a 4 KB write dirties, up to megabytes: the disk's own
counter of sectors shows that these are not written.) Amplification is written bytes for each byte on the wire. The
event log's share is one group a 20 ms, with the events' JSON. `seconds` are CPU seconds of the stage, of one event.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.report import Row, conditions, report
from models.registry import build_models
from state.deltas import DeltaLog, split
from state.follower import Follower, StoreSource
from state.signals import SignalTable
from state.store import Stage, Store
from stream.fold import FoldStage
from stream.learn import LearnStage
from stream.log import EventLog, LogSource
from stream.readers import open_data_set
from stream.run import FOLD_NAME
from stream.run_learn import LearnRunConfig

RATE = 1_000  # events a second that the cadence stands for
FOLD_EVENTS, LEARN_EVENTS = 20, 400  # of one commit at that rate
LIMIT = {"wire KB/event": 1.0, "written MB/s": 25, "follower times stage": 5}


@dataclass
class Cost:
    """What a part spent, summed over its steps."""

    seconds: float = 0.0
    written: int = 0
    steps: list[float] = field(default_factory=list)  # milliseconds of each, wall

    def spend(self, work: Callable[[], object]) -> None:
        """Do the work and add what it cost."""
        cpu, written, started = time.process_time(), bytes_written(), time.perf_counter()
        work()
        self.steps.append(1000 * (time.perf_counter() - started))
        self.seconds += time.process_time() - cpu
        self.written += bytes_written() - written


def bytes_written() -> int:
    """Bytes that this process gave to write calls so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))


class System:
    """Log, fold and learn in one process."""

    def __init__(self, home: Path) -> None:
        self.log = EventLog(home / "log")
        self.stores: dict[Stage, Store] = {
            "fold": Store(home / "fold", "fold", writer=True),
            "learn": Store(home / "learn", "learn", writer=True),
        }
        self.fold = FoldStage(self.stores["fold"], LogSource(self.log))
        models, folds = build_models(LearnRunConfig().models), {FOLD_NAME: StoreSource(self.stores["fold"])}
        self.learn = LearnStage(self.stores["learn"], folds, models, np.random.default_rng(0))
        self.costs = {"log": Cost(), "fold": Cost(), "learn": Cost()}

    def take(self, events: Iterator[bytes], num_events: int) -> None:
        """Take so many events at the cadence."""
        for _ in range(num_events // LEARN_EVENTS):
            for _ in range(LEARN_EVENTS // FOLD_EVENTS):
                group = list(islice(events, FOLD_EVENTS))
                self.costs["log"].spend(partial(self.log.append, group, time.time_ns() // 10**6))
                self.costs["fold"].spend(self.fold.step)
            self.costs["learn"].spend(lambda: self.learn.step(0))

    def versions(self) -> dict[Stage, int]:
        """Of both stages."""
        return {"fold": self.fold.version, "learn": self.learn.version}

    def wire_bytes(self, stage: Stage, after_version: int) -> int:
        """Bytes of the messages of a stage's deltas after a version."""
        with self.stores[stage].read() as txn:
            deltas = DeltaLog(self.stores[stage]).read(txn, after_version)
            return sum(len(part) for version, data in deltas for part in split(stage, version, data))


def follow(system: System, store: Store, until: dict[Stage, int], limit: int) -> dict[Stage, Cost]:
    """What it costs a follower to come to these versions, by stage, `limit` deltas a commit."""
    follower = Follower(store, SignalTable())
    costs: dict[Stage, Cost] = {}
    for stage, version in until.items():
        cost, source = Cost(), StoreSource(system.stores[stage])
        while (left := version - follower.version(stage)) > 0:
            step = partial(follower.step, stage, source, 0, min(limit, left))
            cost.spend(step)
        costs[stage] = cost
    return costs


def row(cost: Cost, num_events: int, wire: int | None = None) -> dict[str, float | int | None]:
    """Figures of one part."""
    return {
        "wire B/event": None if wire is None else round(wire / num_events),
        "written B/event": round(cost.written / num_events),
        "written MB/s": cost.written / num_events * RATE / 1e6,
        "amplification": cost.written / wire if wire else None,
        "us/event": 1e6 * cost.seconds / num_events,
        "step p50 ms": float(np.median(cost.steps)),
        "p99 ms": float(np.percentile(cost.steps, 99)),
    }


def measure(home: Path, data: Path, warm: int, num_events: int) -> dict[str, Row]:
    """Run the stages, then the follower."""
    events = (event.value for event in open_data_set("globo", data)[0])
    system = System(home)
    system.take(events, warm)
    start = system.versions()
    system.costs = {name: Cost() for name in system.costs}
    system.take(events, num_events)
    wires = {stage: system.wire_bytes(stage, start[stage]) for stage in start}
    results: dict[str, Row] = {"log": row(system.costs["log"], num_events)}
    results |= {stage: row(system.costs[stage], num_events, wires[stage]) for stage in start}
    total = Cost(*(sum(getattr(cost, name) for cost in system.costs.values()) for name in ("seconds", "written")))
    total.steps = [0.0]
    results["stages and log"] = row(total, num_events, sum(wires.values()))
    for limit in (1, 100):
        with Store(home / f"follow-{limit}", "follow", writer=True) as store:
            follow(system, store, start, 100)
            costs = follow(system, store, system.versions(), limit)
        for stage in start:
            times = system.costs[stage].seconds / costs[stage].seconds
            results[f"follow {stage} by {limit}"] = row(costs[stage], num_events) | {"times stage": times}
        both = sum(system.costs[stage].seconds for stage in start) / sum(cost.seconds for cost in costs.values())
        results[f"follow both by {limit}"] = {"times stage": both}
    system.log.close()
    for store in system.stores.values():
        store.close()
    return results


def main(
    data: Annotated[Path, typer.Option(envvar="RUNNEL_DATA")] = Path("../shared/data"),
    events: int = 30_000,
    warm: int = 20_000,
    folder: Annotated[Path | None, typer.Option("--dir")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure; stores lie below `--dir` (default: the system's temporary folder) and are removed."""
    torch.set_num_threads(LearnRunConfig().num_threads)
    with tempfile.TemporaryDirectory(prefix="runnel-versions-", dir=folder) as path:
        results = measure(Path(path), data, warm, events)
    about = conditions(events=events, warm=warm, rate=RATE, fold_events=FOLD_EVENTS, learn_events=LEARN_EVENTS)
    report("versions", about, results, LIMIT, json_file)


if __name__ == "__main__":
    typer.run(main)
