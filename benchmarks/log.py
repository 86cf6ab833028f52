# How many events a second the embedded log takes and gives, each group synced, beside LMDB alone.
"""Run (about a minute):

    python -m benchmarks.log --json log.json

Events are Globo clicks as their JSON. A row `x100 by 10000` appends values that hold 100 events each, in
groups of 10,000 events, as `LogSink` gathers them; a group is one synced transaction. `LMDB alone` puts the same bytes
under the same keys in as many synced transactions, without the log; `read` polls all of it again. The log goes on
growing from run to run, as a log does.

What was learned: nothing to optimise. A group costs one sync (0.05 ms on the machine it was first run on), a value
about as much as LMDB alone takes; groups of one value are bound by the sync.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import lmdb
import numpy as np
import typer

from benchmarks.report import Row, conditions, report
from stream.log import PARTITION, EventLog, LogSource
from stream.readers import open_data_set

SHAPES = ((100, 10_000), (100, 1_000), (1, 10_000), (1, 100), (1, 1))  # events a value, events a group
MAX_GROUPS = 3_000  # a run with small groups takes fewer events


def groups_of(events: list[bytes], pack: int, group: int) -> list[list[bytes]]:
    """The events as groups of values."""
    groups = []
    for start in range(0, len(events), group):
        of_group = events[start : start + group]
        packs = [of_group[at : at + pack] for at in range(0, len(of_group), pack)]
        groups.append([value for some in packs for value in (some if pack == 1 else [b"[" + b",".join(some) + b"]"])])
    return groups[:MAX_GROUPS]


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def append_all(log: EventLog, groups: list[list[bytes]]) -> None:
    """Every group in a synced transaction of its own."""
    for number, group in enumerate(groups):
        log.append(group, number)


def put_all(env: lmdb.Environment, groups: list[list[bytes]]) -> None:
    """The same bytes with nothing around LMDB."""
    with env.begin() as txn, txn.cursor() as cursor:
        following = int.from_bytes(cursor.key(), "big") + 1 if cursor.last() else 0
    for group in groups:
        with env.begin(write=True) as txn:
            pairs = [((following + place).to_bytes(8, "big"), value) for place, value in enumerate(group)]
            txn.cursor().putmulti(pairs, append=True)
        following += len(group)


def read_all(log: EventLog, offset: int) -> None:
    """Poll everything from an offset on."""
    source = LogSource(log)
    source.seek(PARTITION, offset)
    while source.poll(10_000, 0.0):
        pass


def measure(folder: Path, events: list[bytes], pack: int, group: int, runs: int) -> Row:
    """Events a second of one shape."""
    groups = groups_of(events, pack, group)
    num_events = min(len(events), group * len(groups))
    log = EventLog(folder / f"log-{pack}-{group}")
    env = lmdb.open(str(folder / f"lmdb-{pack}-{group}"), map_size=1 << 36, lib_version=0)
    appended, alone, read = [], [], []
    for _ in range(runs):
        first = log.end_offset()
        appended.append(num_events / seconds_of(lambda: append_all(log, groups)))
        alone.append(num_events / seconds_of(lambda: put_all(env, groups)))
        read.append(num_events / seconds_of(lambda first=first: read_all(log, first)))  # type: ignore[misc]
    log.close()
    env.close()
    return {
        "events/s": round(float(np.median(appended))),
        "least": round(min(appended)),
        "most": round(max(appended)),
        "LMDB alone": round(float(np.median(alone))),
        "read": round(float(np.median(read))),
        "groups": len(groups),
    }


def main(
    data: Annotated[Path, typer.Option(envvar="RUNNEL_DATA")] = Path("../shared/data"),
    events: int = 200_000,
    runs: int = 5,
    folder: Annotated[Path | None, typer.Option("--dir")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure every shape; logs lie below `--dir` (default: the system's temporary folder) and are removed."""
    values = [event.value for event in open_data_set("globo", data, events)[0]]
    results: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(prefix="runnel-log-", dir=folder) as path:
        for pack, group in SHAPES:
            results[f"x{pack} by {group}"] = measure(Path(path), values, pack, group, runs)
    size = round(float(np.mean([len(value) for value in values])))
    report(
        "log", conditions(events=events, bytes_an_event=size, runs=runs), results, {"x100 by 10000": 300_000}, json_file
    )


if __name__ == "__main__":
    typer.run(main)
