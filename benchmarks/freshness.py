# How soon does a list know of an event? From the POST of an event to the first list that covers it, under load.
"""python -m benchmarks.freshness --runs 5 --seconds 15 --json freshness.json

A real `runnel up` learns from Globo's clicks, which another process posts at 100, 1,000 and 3,000 events a second,
1, 10 and 30 a call, with the time of sending. Meanwhile a second client probes ten times a second with users and events
of its own:

- *session*: from before the POST of its event to the answer of the first recommendation whose `session_offsets` cover
  it (asked again 3 ms after each answer);
- *model*: to the answer of the first recommendation of a version that has learned it (`learned_offsets` of /v1/model,
  looked at every 15 ms).

Both contain the calls themselves and the load of probing. *spared*: the share of examples that load sampled out, which
counters learned and gradient models did not. *lag*: age of the newest learned event, medians of the first, middle and
last third of the run: that they do not grow is what shows that the system keeps up.

Where the time goes at 1,000/s, on two cores that others used too: session: the acknowledgement 2 ms, up to 20 ms until
the fold stage commits (its cadence), 3 to 5 ms a request. Model: half the cadence of the learn stage, and the 90 to 150
ms that the newest event of a version is old when /v1/model first tells of it: the step and the view's refresh. With a
cadence of 0.25 instead of 0.5 s the median was 0.25 instead of 0.40 to 0.55 s; 0.4 s is what costs little: the dense
weights travel with every version (450 bytes an event instead of 360; 620 at 0.25 s).
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from rich.progress import track

from benchmarks.client import Connection, prepared
from benchmarks.load import DATA, LoadResult, Plan, loading
from benchmarks.report import Figure, Row, conditions, report
from benchmarks.running import Running, running
from commands.api import reaches
from serving.schemas import EventsReply, SlateReply

PER_CALL = {100: 1, 1000: 10, 3000: 30}
WARM_EVENTS, WARM_SECONDS = 6_000, 5.0  # learned before the first run: so many, then at its rate
PROBES_A_SECOND = 10
NUM_PROBERS = 4
NUM_USERS = 1_000  # of probes: each comes again after 100 seconds
DEADLINE_SECONDS = 60.0  # a probe that takes longer ends the benchmark


@dataclass
class Probe:
    """One event, and when (seconds, `time.perf_counter`) its lists came."""

    user: str
    posted_at: float
    offsets: dict[str, int]
    session_at: float = 0.0
    model_at: float = 0.0


@dataclass
class Probing:
    """Probes of one run and what the model poll saw. Threads append; figures are taken after `stop`."""

    port: int
    tag: str
    probes: list[Probe] = field(default_factory=list)
    ages: list[tuple[float, float]] = field(default_factory=list)  # (seconds, age of the newest learned event in ms)
    requests: list[tuple[float, float]] = field(default_factory=list)  # (seconds, ms that a recommendation took)

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._waiting: list[Probe] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._failures: list[str] = []
        targets = [partial(self._probe, random.Random(f"{self.tag}-{n}")) for n in range(NUM_PROBERS)]
        self._probers = [threading.Thread(target=self._guarded, args=(target,), daemon=True) for target in targets]
        self._follower = threading.Thread(target=self._guarded, args=(self._follow,), daemon=True)

    def start(self) -> None:
        """Begin."""
        for thread in (*self._probers, self._follower):
            thread.start()

    def stop(self) -> None:
        """Wait for the probes on their way. Raises RuntimeError where one failed."""
        self._stop.set()
        for thread in (*self._probers, self._follower):
            thread.join()
        if self._failures:
            raise RuntimeError(f"probes failed: {self._failures}")

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except (OSError, RuntimeError) as error:
            self._failures.append(f"{type(error).__name__}: {error}")
            self._stop.set()

    def _probe(self, rng: random.Random) -> None:
        """Post an event of a new user, and ask for its list until that knows it; then again."""
        connection = Connection(self.port)
        while not self._stop.wait(rng.uniform(0.5, 1.5) * NUM_PROBERS / PROBES_A_SECOND):
            user = f"probe-{self.tag}-{next(self._numbers) % NUM_USERS}"
            event = {"type": "view", "user_id": user, "item_id": "160974", "dwell_ms": 9000}
            body = msgspec.json.encode(event | {"timestamp": time.time_ns() // 1_000_000})
            posted_at = time.perf_counter()
            reply = msgspec.json.decode(_call(connection, prepared("POST", "/v1/events", body)), type=EventsReply)
            probe = Probe(user, posted_at, reply.offsets)
            while not reaches(self._recommend(connection, user).session_offsets, probe.offsets):
                _check_deadline(probe)
                time.sleep(0.003)
            probe.session_at = time.perf_counter()
            with self._lock:
                self._waiting.append(probe)

    def _follow(self) -> None:
        """Look at the versions; ask for the list of every probe that the newest one has learned."""
        connection, poll = Connection(self.port), Running(Path(), self.port)
        while not self._stop.is_set() or self._waiting or any(each.is_alive() for each in self._probers):
            model = poll.model()
            now = time.perf_counter()
            self.ages.append((now, float(model.model_age_ms or 0)))
            with self._lock:
                covered = [probe for probe in self._waiting if reaches(model.learned_offsets, probe.offsets)]
                self._waiting = [probe for probe in self._waiting if probe not in covered]
                for probe in self._waiting:
                    _check_deadline(probe)
            for probe in covered:
                if self._recommend(connection, probe.user).model_version < model.model_version:
                    raise RuntimeError("a list was of an older version than /v1/model had told before")
                probe.model_at = time.perf_counter()
                self.probes.append(probe)
            time.sleep(0.015)

    def _recommend(self, connection: Connection, user: str) -> SlateReply:
        """A list of ten."""
        request = prepared("POST", "/v1/recommendations", b'{"user_id":"%s","n":10}' % user.encode())
        asked_at = time.perf_counter()
        reply = msgspec.json.decode(_call(connection, request), type=SlateReply)
        answered_at = time.perf_counter()
        self.requests.append((answered_at, 1000 * (answered_at - asked_at)))
        return reply


def _call(connection: Connection, request: bytes) -> bytes:
    reply = connection.call(request)
    if reply.status not in (200, 202):
        raise RuntimeError(f"status {reply.status}: {reply.body[:300]!r}")
    return reply.body


def _check_deadline(probe: Probe) -> None:
    if time.perf_counter() - probe.posted_at > DEADLINE_SECONDS:
        raise RuntimeError(f"the event of {probe.user} was not there after {DEADLINE_SECONDS:.0f} s")


@dataclass(frozen=True)
class Run:
    """One run at one rate."""

    probes: list[Probe]
    lags: list[float]  # of its three thirds, milliseconds
    spared: float
    load: LoadResult

    def milliseconds(self, stage: str, percentile: float) -> float:
        """A percentile of the time to the first list, `stage` session or model."""
        times = [getattr(probe, f"{stage}_at") - probe.posted_at for probe in self.probes]
        return float(1000 * np.percentile(times, percentile))


def measure(system: Running, plan: Plan) -> Run:
    """One run; the system is left with nothing to learn."""
    with loading(plan) as load:
        learned, spared = system.learned()
        probing = Probing(system.port, plan.tag)
        load.start()
        probing.start()
        sent = load.result()
        probing.stop()
    system.settle()
    learned, spared = (now - before for now, before in zip(system.learned(), (learned, spared), strict=True))
    start, end = probing.ages[0][0], probing.ages[-1][0]
    thirds = [[age for at, age in probing.ages if int(2.999 * (at - start) / (end - start)) == n] for n in range(3)]
    return Run(probing.probes, [float(np.median(third)) for third in thirds], spared / max(1, learned), sent)


def figures(runs: list[Run]) -> Row:
    """Of a rate: medians over its runs and, for percentiles, their spread."""
    row: dict[str, Figure] = {"runs": len(runs), "probes": sum(len(run.probes) for run in runs)}
    for stage in ("session", "model"):
        for percentile in (50, 99):
            values = [run.milliseconds(stage, percentile) for run in runs]
            row[f"{stage} p{percentile} ms"] = float(np.median(values))
            row[f"{stage} p{percentile} spread"] = f"{min(values):.0f}..{max(values):.0f}"
    row["spared"] = float(np.median([run.spared for run in runs]))
    row["lag ms start, middle, end"] = ", ".join(f"{np.median([run.lags[n] for run in runs]):.0f}" for n in range(3))
    row["events/s accepted"] = float(np.median([run.load.accepted / run.load.seconds for run in runs]))
    row["ack p50 ms"] = float(np.median([run.load.ack_p50 for run in runs]))
    row["ack p99 ms"] = float(np.median([run.load.ack_p99 for run in runs]))
    row["refused calls"] = sum(sum(run.load.refused.values()) for run in runs)
    return row


def measure_rate(
    rate: int,
    num_runs: int,
    seconds: float,
    data: Path,
    start: Callable[[], AbstractContextManager[Running]] = running,
) -> list[Run]:
    """All runs of one rate, on one system that starts with an empty home."""
    with start() as system:
        # What a process does once (memory that grows to its size, a first long step) belongs to no run.
        warm_up = Plan(system.port, rate, PER_CALL[rate], WARM_SECONDS, data)
        for plan in (Plan(system.port, 10_000, 500, WARM_EVENTS / 10_000, data, tag="first"), warm_up):
            with loading(plan) as load:
                load.start()
                load.result()
            system.settle()
        each = round(rate * seconds)
        plans = [
            Plan(system.port, rate, PER_CALL[rate], seconds, data, WARM_EVENTS + n * each, f"{rate}-{n}")
            for n in range(num_runs)
        ]
        return [measure(system, plan) for plan in track(plans, f"{rate} events/s")]


def main(
    rates: str = "100,1000,3000",
    runs: int = 5,
    seconds: float = 15.0,
    data: Annotated[Path, typer.Option(envvar="RUNNEL_DATA")] = DATA,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """`runs` runs of `seconds` at each rate (100, 1000 or 3000)."""
    chosen = [int(rate) for rate in rates.split(",")]
    columns = {f"{rate}/s x {PER_CALL[rate]}": figures(measure_rate(rate, runs, seconds, data)) for rate in chosen}
    names = next(iter(columns.values()))
    results = {name: {rate: column[name] for rate, column in columns.items()} for name in names}
    limit: Row = {
        "session p50 ms": 60,
        "session p99 ms": 250,
        "model p50 ms at 1000/s": 500,
        "model p99 ms at 1000/s": 1000,
        "lag at 3000/s": "does not grow",
    }
    report("freshness", conditions(seconds=seconds, stream="globo"), results, limit, json_file)


if __name__ == "__main__":
    typer.run(main)
