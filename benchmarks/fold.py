# How many events a second the fold stage takes: decode, validate, fold and commit, beside the parts alone.
"""Run (about three minutes; `--events 20000 --runs 1` for a look):

    python -m benchmarks.fold --json fold.json

`x100` and `x1` say how many events a value of the log holds: arrays as POSTs of 100 bring them, or one.

Workloads: `globo` clicks in their order into an empty store; `zipf`, 300,000 users with 20 entries each, drawn by
Zipf's law with exponent 1; `uniform`, users with full sequences of 200, drawn uniformly, so that nearly every event
meets a record that is not in memory. Every run folds new events on the same filled store (Globo: an empty one), in
commits of up to 10,000 events, each synced.

Beside it: msgspec decoding the same values without types (the bare parser), and LMDB taking one 44-byte row an event
in sorted puts into the same filled store, synced as often. `commits of 60` are steps of 60 events: 20 ms at 3,000/s.
`CPU us` is the processor time of an event, which other work on the machine changes less than the rate.

What was learned: half of the time went into reading a full sequence as 200 objects to add one entry to its end (28 us;
the two ends alone 2 us), a quarter into the garbage collector walking records and events that hold no cycles (they are
msgspec structs without it now), a sixth into properties, tuples and enum hashes of each event. What is left of
`uniform` is LMDB: 3.4 pages an event, written once each.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.bulk import START_MS, draw_entries, event_values, fill_records, zipf_users
from benchmarks.report import Row, conditions, report
from state.entry import ENTRY_BYTES
from state.store import Store
from stream.fold import FoldConfig, FoldStage
from stream.readers import open_data_set
from stream.source import IterableSource

Values = list[tuple[int, bytes]]  # (received_at, value)
NUM_ITEMS = 20_000
SMALL_COMMIT = 60  # events of 20 ms at 3,000 a second
LIMIT = {"globo x100": 80_000, "zipf x100": 40_000, "uniform x100": 15_000, "commits of 60, max ms": 100}


@dataclass(frozen=True)
class Workload:
    """Users of a filled store, and who of them the events are of."""

    num_users: int
    num_entries: int  # of each user's sequence
    draw: Callable[[int, int, np.random.Generator], NDArray[np.int64]]  # (users, draws, generator) -> [draws]


def uniform_users(num_users: int, num_draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """[num_draws] users, each as likely."""
    return rng.integers(0, num_users, num_draws)


WORKLOADS = {
    "zipf": Workload(300_000, 20, zipf_users),
    "uniform": Workload(100_000, 200, uniform_users),
}


def packed(events: Values, pack: int) -> Values:
    """The events as values of the log, `pack` an array, stamped with the time of the last."""
    if pack == 1:
        return events
    groups = (events[start : start + pack] for start in range(0, len(events), pack))
    return [(group[-1][0], b"[" + b",".join(value for _, value in group) + b"]") for group in groups]


class Run(NamedTuple):
    """What folding a run's events took."""

    seconds: float
    cpu_seconds: float


class Bench:
    """A fold store in a folder of its own, and events that go on in time from run to run."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.store = Store(folder, "fold", writer=True)
        self._rng = np.random.default_rng(seed)
        self._start_ms, self._runs = START_MS, 0

    def fill(self, workload: Workload) -> None:
        """Build the workload's users."""
        fill_records(self.store, workload.num_users, workload.num_entries, NUM_ITEMS, self._rng)

    def draw(self, workload: Workload, num_events: int) -> Values:
        """Events of the workload that are newer than all before."""
        users = workload.draw(workload.num_users, num_events, self._rng)
        self._start_ms += 10_000_000
        return event_values(users, self._rng.integers(0, NUM_ITEMS, num_events), self._start_ms)

    def fold(self, values: Values, max_events: int = 10_000) -> list[float]:
        """Seconds of each step that folds `values`."""
        self._runs += 1  # each run is a partition of its own, for the store remembers how far it has read
        source = IterableSource(values, f"values-{self._runs}")
        stage = FoldStage(self.store, source, config=FoldConfig(max_events=max_events))
        seconds: list[float] = []
        while True:
            started = time.perf_counter()
            result = stage.step()
            if not result.num_messages:
                return seconds
            if result.num_rejected:
                raise RuntimeError("the benchmark's own events were rejected")
            seconds.append(time.perf_counter() - started)

    def run(self, values: Values) -> Run:
        """Fold `values` as fast as it goes."""
        started = time.process_time()
        seconds = sum(self.fold(values))
        return Run(seconds, time.process_time() - started)

    def put_seconds(self, users: list[str], commit: int = 10_000) -> float:
        """Of LMDB taking a row for each of these users, sorted, in synced transactions of `commit` rows."""
        blob = draw_entries(len(users), NUM_ITEMS, self._rng).tobytes()
        rows = [blob[at : at + ENTRY_BYTES] for at in range(0, len(blob), ENTRY_BYTES)]
        started = time.perf_counter()
        for start in range(0, len(users), commit):
            pairs = zip((user.encode() for user in users[start : start + commit]), rows[start:], strict=False)
            with self.store.write() as txn:
                txn.cursor(self.store.db("sequence")).putmulti(sorted(pairs))
        return time.perf_counter() - started


class _User(msgspec.Struct):
    user_id: str


def users_of(values: Values) -> list[str]:
    """The user of each event."""
    decode = msgspec.json.Decoder(list[_User]).decode
    return [event.user_id for _, value in values for event in decode(value if value[:1] == b"[" else b"[%b]" % value)]


def decode_seconds(values: Values) -> float:
    """Of msgspec decoding every value into plain objects."""
    decode = msgspec.json.Decoder().decode
    started = time.perf_counter()
    for _, value in values:
        decode(value)
    return time.perf_counter() - started


def row(num_events: int, runs: list[Run], raw: Values, put_seconds: float) -> Row:
    """Figures of the runs of one workload, each of `num_events`, beside the parts alone."""
    rates = sorted(num_events / run.seconds for run in runs)
    return {
        "events/s": round(float(np.median(rates))),
        "least": round(rates[0]),
        "most": round(rates[-1]),
        "CPU us": 1e6 * float(np.median([run.cpu_seconds for run in runs])) / num_events,
        "decode alone": round(num_events / decode_seconds(raw)),
        "LMDB alone": round(num_events / put_seconds),
    }


def measure_globo(data: Path, folder: Path, num_events: int, runs: int, pack: int) -> Row:
    """Globo's clicks in their order, each run into an empty store."""
    events = [(event.timestamp, event.value) for event in open_data_set("globo", data, num_events)[0]]
    values = packed(events, pack)
    done: list[Run] = []
    for number in range(runs):
        bench = Bench(folder / f"globo-{pack}-{number}", number)
        done.append(bench.run(values))
        if number < runs - 1:
            bench.store.close()
    empty = Bench(folder / f"puts-{pack}", 0)
    result = row(len(events), done, values, empty.put_seconds(users_of(values)))
    bench.store.close()
    empty.store.close()
    return result


def measure_filled(bench: Bench, workload: Workload, num_events: int, runs: int) -> Iterator[tuple[str, Row]]:
    """A filled store: arrays of 100, single events, and small commits; the bare puts come last."""
    bench.fold(packed(bench.draw(workload, num_events // 4), 100))  # the caches of a stage that runs
    done: dict[int, list[Run]] = {}
    for pack in (100, 1):
        drawn = [packed(bench.draw(workload, num_events), pack) for _ in range(runs)]
        done[pack] = [bench.run(values) for values in drawn]
    steps = np.array(bench.fold(bench.draw(workload, SMALL_COMMIT * 200), SMALL_COMMIT)) * 1000
    puts = bench.put_seconds(users_of(drawn[-1]))
    for pack in (100, 1):
        yield f"x{pack}", row(num_events, done[pack], packed(drawn[-1], pack), puts)
    yield (
        "commits of 60",
        {
            "p50 ms": float(np.percentile(steps, 50)),
            "p99 ms": float(np.percentile(steps, 99)),
            "max ms": float(steps.max()),
        },
    )


def main(
    data: Annotated[Path, typer.Option(envvar="RUNNEL_DATA")] = Path("../shared/data"),
    events: int = 100_000,
    runs: int = 5,
    folder: Annotated[Path | None, typer.Option("--dir")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure every workload; stores are built below `--dir` (default: the system's temporary folder) and removed."""
    results: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(prefix="runnel-fold-", dir=folder) as path:
        for pack in (100, 1):
            results[f"globo x{pack}"] = measure_globo(data, Path(path), events, runs, pack)
        for name, workload in WORKLOADS.items():
            bench = Bench(Path(path) / name, 0)
            bench.fill(workload)
            results |= {f"{name} {part}": found for part, found in measure_filled(bench, workload, events, runs)}
            bench.store.close()
            shutil.rmtree(Path(path) / name)
    sizes = {name: f"{each.num_users} users of {each.num_entries}" for name, each in WORKLOADS.items()}
    report(
        "fold",
        conditions(events=events, runs=runs, batches="up to 10,000 events, synced", **sizes),
        results,
        LIMIT,
        json_file,
    )


if __name__ == "__main__":
    typer.run(main)
