# What grows with the number of users: cost of an event and of a request's record, memory, bytes on disk.
"""Run (about four minutes and 8 GB of disk; `--max-users 1000000` for less):

    python -m benchmarks.growth --json growth.json

For each number of users a fold store is built in bulk (20 entries each), then measured in a process of its own: events
of uniformly drawn users are folded in synced commits of 20 and of 60 events (20 ms at 1,000 and at 3,000 a second), and
records are read as a request does, sequence, seen and dislikes with the offsets in one transaction. Costs are medians,
of commits and of reads. Anonymous memory (RssAnon) is read at the end, when the cache of records is as full as it gets;
what is mapped of the file (RssFile) is page cache, quoted apart. The file is read once before each run, and `disk
reads` counts the pages that were not there all the same: a system that drops what was not used for a minute measures
its disk. On a machine whose syncs cost most, `--dir /dev/shm` tells of the store alone (slope .057 where its disk
gave .129). `slope` is that of a straight line through log cost over log users; the limit is for the cadence of 1,000 a
second.

Commits of 10,000 would tell of themselves, not of the store: small stores share pages between their events, large
ones do not. What still grows is what a B-tree must: a branch page an event while it gets deeper (7.5 KB written an
event at 10,000 users, 11 KB at a million, in commits of 60), and memory that is not in the processor's caches.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Annotated

import numpy as np
import typer

from benchmarks.bulk import START_MS, event_values, fill_records, store_bytes, user_id
from benchmarks.report import Row, conditions, report
from state.offsets import get_offsets
from state.records import read_record
from state.store import Store
from stream.fold import FoldConfig, FoldStage
from stream.source import IterableSource

SIZES = (10_000, 100_000, 1_000_000, 5_000_000)
NUM_ENTRIES, NUM_ITEMS = 20, 20_000
COMMITS = {"event us": 20, "event us x60": 60}  # figure → events of a commit
LIMIT = {"slope of event us": 0.10, "slope of request us": 0.10, "anon MB, most over least": 1.2}


def build(folder: Path, num_users: int) -> None:
    """A store with so many users; it has appeared when it is whole."""
    with Store(folder, "fold", writer=True) as store:
        fill_records(store, num_users, NUM_ENTRIES, NUM_ITEMS, np.random.default_rng(num_users))


def measure(folder: Path, num_users: int, num_events: int, run: int) -> dict[str, float]:
    """Figures of a built store, in this process; each run brings newer events."""
    rng = np.random.default_rng(run)
    warm(folder)
    faults = getrusage(RUSAGE_SELF).ru_majflt
    with Store(folder, "fold", writer=True) as store:
        found = {}
        for place, (name, commit) in enumerate(COMMITS.items()):
            number = run * len(COMMITS) + place
            source = IterableSource(drawn(num_users, num_events, number, rng), f"values-{number}")
            found[name] = fold_cost(store, source, commit)
        found["request us"] = read_cost(store, num_users, rng)
    found["disk reads"] = getrusage(RUSAGE_SELF).ru_majflt - faults
    return found | {"anon MB": resident("RssAnon"), "mapped MB": resident("RssFile")}


def warm(folder: Path) -> None:
    """Have the store's pages in the page cache: some systems drop what was not read for a minute."""
    with (folder / "data.mdb").open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def drawn(num_users: int, num_events: int, number: int, rng: np.random.Generator) -> list[tuple[int, bytes]]:
    """Events of uniformly drawn users and items, newer than those of the numbers before."""
    users, items = rng.integers(0, num_users, num_events), rng.integers(0, NUM_ITEMS, num_events)
    return event_values(users, items, START_MS + number * num_events)


def fold_cost(store: Store, source: IterableSource, commit: int) -> float:
    """Microseconds an event, the median over commits; the first half of the events only fills the caches."""
    stage = FoldStage(store, source, config=FoldConfig(max_events=commit))
    seconds: list[float] = []
    while True:
        started = time.perf_counter()
        if not stage.step().num_messages:
            return 1e6 * float(np.median(seconds[len(seconds) // 2 :])) / commit
        seconds.append(time.perf_counter() - started)


def read_cost(store: Store, num_users: int, rng: np.random.Generator, num_reads: int = 20_000) -> float:
    """Microseconds to read a record as a request does, the median."""
    seconds = []
    for number in rng.integers(0, num_users, num_reads).tolist():
        started = time.perf_counter()
        with store.read() as txn:
            record = read_record(txn, store, user_id(number).encode())
            rows = len(record.sequence.rows) + len(record.seen.rows) + len(record.dislikes.rows)
            get_offsets(txn, store)
        seconds.append(time.perf_counter() - started)
        if rows < NUM_ENTRIES:
            raise RuntimeError(f"user {number} has {rows} entries, not {NUM_ENTRIES}")
    return 1e6 * float(np.median(seconds))


def resident(kind: str) -> float:
    """Megabytes of this process in memory: RssAnon or RssFile."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


def slope(sizes: list[int], costs: list[float]) -> float:
    """Of log cost over log size."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0]) if len(sizes) > 1 else 0.0


def figures(folder: Path, num_users: int, num_events: int, runs: int, empty_bytes: int) -> dict[str, float]:
    """Build a store and measure it `runs` times, each in a fresh process; medians."""
    started = time.perf_counter()
    build(folder, num_users)
    found = {"built s": time.perf_counter() - started, "bytes/user": (store_bytes(folder) - empty_bytes) / num_users}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        measured = [pool.apply(measure, (folder, num_users, num_events, run)) for run in range(runs)]
    for name in measured[0]:
        found[name] = float(np.median([each[name] for each in measured]))
    for name in (*COMMITS, "request us"):
        found[f"{name} ±"] = (max(each[name] for each in measured) - min(each[name] for each in measured)) / 2
    return found


def main(
    max_users: int = SIZES[-1],
    events: int = 40_000,
    runs: int = 5,
    folder: Annotated[Path | None, typer.Option("--dir")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure every size up to `--max-users`; one store at a time lies below `--dir` (default: system temporary)."""
    sizes = [size for size in SIZES if size <= max_users]
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="runnel-growth-", dir=folder) as path:
        build(Path(path) / "empty", 0)
        for size in sizes:
            store = Path(path) / str(size)
            found.append(figures(store, size, events, runs, store_bytes(Path(path) / "empty")))
            shutil.rmtree(store)
    results: dict[str, Row] = {f"{size:,} users": row for size, row in zip(sizes, found, strict=True)}
    results["slope"] = {name: slope(sizes, [row[name] for row in found]) for name in (*COMMITS, "request us")}
    anonymous = [row["anon MB"] for row in found]
    results["most over least"] = {"anon MB": max(anonymous) / min(anonymous)}
    about = conditions(entries=NUM_ENTRIES, events=events, runs=runs)
    report("growth", about, results, LIMIT, json_file)


if __name__ == "__main__":
    typer.run(main)
