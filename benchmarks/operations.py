# What `runnel snapshot` and `runnel compact` cost a fold store, and how commits fare meanwhile.
"""Run (about a minute with 200,000 users, five with a million):

    python -m benchmarks.operations --users 1000000 --json operations.json

A store of users with 20 entries each. Commits write 50 entries of drawn users, one every 20 ms, alone and while a
snapshot is written by a thread of the same process, as a stage does it. `compact` holds the stage up for all of its
time. The limits are the same bytes written and synced by `cp` of the file, and LMDB's commit alone.

What was learned: LMDB's own compacting copy would be as fast as the plain one, and ends the process on sets of rows
that have outgrown a page; row by row, `putmulti` of sorted rows takes 2.5 s of processor time for 8 million. A commit's
sync waited 150 ms while ext4 gave back the blocks of a removed snapshot of 130 MiB: with copies written, and old ones
cut off, 4 MiB at a time, the longest was 20 to 32 ms (beside other work on the machine).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Annotated, TypeVar

import numpy as np
import typer

from benchmarks.bulk import START_MS, fill_records, user_id
from benchmarks.report import Row, conditions, report
from state.compaction import compact
from state.entry import Entry, pack
from state.generation import sync
from state.snapshots import write_snapshot
from state.store import Store

Result = TypeVar("Result")
NUM_ENTRIES, NUM_ITEMS, COMMIT_ENTRIES, EVERY_SECONDS = 20, 10_000, 50, 0.02


def main(
    users: Annotated[int, typer.Option(help="Users of the store.")] = 200_000,
    runs: Annotated[int, typer.Option(help="Runs, of which the median is told.")] = 5,
    directory: Annotated[Path | None, typer.Option("--dir", help="Where the store is built.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        home, rng = Path(folder), np.random.default_rng(0)
        with Store(home / "fold", "fold", writer=True) as store:
            fill_records(store, users, NUM_ENTRIES, NUM_ITEMS, rng)
            results: dict[str, Row] = {"commit alone": of_commits(commit_for(store, users, rng, 3.0))}
            before, seconds, latencies = store.file_bytes(), [], []
            for _ in range(runs):
                copied, found = snapshot_under_commits(store, home / "snapshots", users, rng)
                seconds.append(copied)
                latencies += found
            results["commit during a snapshot"] = of_commits(latencies)
            results["snapshot"] = of_seconds(seconds, store.file_bytes())
            grown = store.file_bytes() - before
        sizes, compacted = zip(*[timed(lambda: compact(home / "fold", "fold")) for _ in range(runs)], strict=True)
        rows = users * NUM_ENTRIES
        results["compact"] = {**of_seconds(list(compacted), sizes[0][0]), "rows/s": rows / median(compacted)}
        copies = [timed(lambda: copy_synced(home))[1] for _ in range(runs)]
        results["limit: file copied and synced"] = of_seconds(copies, sizes[-1][1])
    told = conditions(users=users, entries_a_user=NUM_ENTRIES, runs=runs, grown_by_snapshots_mib=grown / (1 << 20))
    limit = {"copy s": median(copies), "commit alone p50 ms": results["commit alone"]["p50 ms"]}
    report("operations", told, results, limit, json_file)


def snapshot_under_commits(
    store: Store, directory: Path, users: int, rng: np.random.Generator
) -> tuple[float, list[float]]:
    """Seconds of a snapshot, and of each commit that was made meanwhile."""
    took: list[float] = []
    writing = Thread(target=lambda: took.append(timed(lambda: write_snapshot(store, directory, keep=1))[1]))
    writing.start()
    latencies: list[float] = []
    while writing.is_alive():
        latencies += commit_for(store, users, rng, 0.0)
    writing.join()
    return took[0], latencies


def commit_for(store: Store, users: int, rng: np.random.Generator, seconds: float) -> list[float]:
    """Commit for so long, once at least; seconds of each."""
    latencies: list[float] = []
    end = time.monotonic() + seconds
    while not latencies or time.monotonic() < end:
        drawn = sorted(rng.integers(0, users, COMMIT_ENTRIES).tolist())
        entry = pack(Entry(START_MS + int(rng.integers(1 << 40)), 1, 1, 1))
        started = time.perf_counter()
        with store.write() as txn:
            txn.cursor(store.db("sequence")).putmulti([(user_id(user).encode(), entry) for user in drawn])
        latencies.append(time.perf_counter() - started)
        time.sleep(max(0.0, EVERY_SECONDS - latencies[-1]))
    return latencies


def copy_synced(home: Path) -> None:
    """The store's file as a plain copy that is on disk."""
    (source,) = (home / "fold").rglob("data.mdb")
    shutil.copyfile(source, home / "copy")
    sync(home / "copy")
    os.unlink(home / "copy")


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What the work gave, and its seconds."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def of_seconds(seconds: list[float], size: int) -> Row:
    """Median and spread."""
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    return {"s": median(seconds), "spread s": spread, "MiB": size / (1 << 20)}


def of_commits(latencies: list[float]) -> Row:
    """Percentiles in milliseconds."""
    p50, p99 = np.percentile(latencies, [50, 99])
    return {"p50 ms": 1e3 * float(p50), "p99 ms": 1e3 * float(p99), "max ms": 1e3 * max(latencies)}


if __name__ == "__main__":
    typer.run(main)
