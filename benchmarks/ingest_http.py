# How many events a second does POST /v1/events acknowledge? Batches of 1, 100 and 1,000, from 1 and 8 clients.
"""Posts Globo's clicks over keep-alive connections, each client the next call as soon as it has its answer: to the
whole system (`runnel up`: both stages run and take what comes), and to the service alone (`runnel serve`), which shows
what the intake itself costs beside an empty handler. An acknowledged event is synced to disk:

    python -m benchmarks.ingest_http --json ingest.json

Beside it in the same run: the same bytes to an empty POST handler behind the same Ray Serve, HAProxy and FastAPI, and
the same events in synced groups of as many to the embedded log without HTTP. Clients
share the machine's cores with the service. Between two measurements the stages catch up.

Learned on the way: at 100 a call an event costs the replica 5 to 7 us, half of it the look-up whether the record holds
it already. At one a call HTTP is most of it, and behind Ray and uvicorn the loop takes 270 us for an empty call, 360 to
430 for ours. What helped: calls go past FastAPI's routing (35 us less), the fold's offset and the log's end are looked
up seldom (15 us), and a process of its own writes the log (a third more events). As a thread beside the loop it had to
wait for the interpreter's lock at each of LMDB's short calls: of a cycle of 3.1 ms for four calls, 1.1 were the way to
that thread and 1.1 an append that takes 0.3 alone; shorter turns of the lock (0.1, 0.03 ms) changed nothing, nor did
gathering calls before they went to the thread, nor the thread handing its groups to a process. Clients in a process
that goes first changed neither row: the service is what they wait for. With the loop on one core and all else on the
other it is steadily three quarters of the empty handler's rate; left to the scheduler, half of the runs are there, and
the others stand a third of the time idle while loop and writer take turns on one core.

With both stages at work one client's batches of 100 are half as many: three files are synced to one disk then. With the
home in memory they are twice as many; the stages' priority and a log file written ahead of need changed nothing. One
timer a body and counts that keep their labels took 15 of the 45 us that a call costs in the app beyond an empty one.
Ray told not to watch for a client that hangs up makes both sides faster, the empty one more.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.client import prepared
from benchmarks.closed_loop import Asked, ask
from benchmarks.empty_service import empty_service, wait_for
from benchmarks.load import DATA, click_events, event_calls
from benchmarks.report import Row, conditions, report
from benchmarks.running import Running, running
from serving.ports import free_ports
from state.store import Store
from stream.fold import FoldStage
from stream.log import EventLog, LogSource

SHAPES = ((1, 1), (1, 100), (1, 1000), (8, 1), (8, 100), (8, 1000))  # clients, events a call
GUESS = 60_000  # events a second for which calls are prepared; of single ones fewer
LIMIT: Row = {"1 x 100": 30_000, "8 x 1 / empty handler": 0.7, "Gorse 0.5.9, 1 x 100": 24_600, "Gorse, 1 x 1": 1_060}


class Calls:
    """Globo's clicks, never the same event twice."""

    def __init__(self, data: Path) -> None:
        self._events = click_events(data, "ingest")

    def take(self, num_calls: int, per_call: int) -> list[bytes]:
        """The next calls."""
        return list(event_calls(self._events, num_calls, per_call))


def measure(port: int, calls: Sequence[bytes], num_clients: int, seconds: float) -> Asked:
    """Post calls from so many clients until the time is over or all are posted."""
    asked = ask(port, calls, num_clients, seconds, 202, unwanted=b'"status":"rejected"')
    if asked.shed:
        raise RuntimeError(f"{asked.shed} calls refused as too much at once")
    return asked


def summary(runs: Sequence[Asked], per_call: int) -> Row:
    """Median events a second with the least and the greatest, and the times of the calls."""
    rates = [len(run.spent) * per_call / run.seconds for run in runs]
    spent = 1000 * np.concatenate([run.spent for run in runs])
    return {
        "events/s": round(float(np.median(rates))),
        "spread": f"{min(rates):,.0f}..{max(rates):,.0f}",
        "call p50 ms": float(np.percentile(spent, 50)),
        "call p99 ms": float(np.percentile(spent, 99)),
    }


def log_alone(calls: Calls, per_call: int, num_runs: int) -> Row:
    """The events of each call as one value in a synced group of its own."""
    runs = []
    with tempfile.TemporaryDirectory(prefix="runnel-log-") as folder:
        log = EventLog(Path(folder))
        for _ in range(num_runs):
            values = [call.split(b"\r\n\r\n", 1)[1] for call in calls.take(min(500, 100_000 // per_call), per_call)]
            run, started = Asked(), time.perf_counter()
            for value in values:
                begun = time.perf_counter()
                log.append([value], time.time_ns() // 1_000_000)
                run.spent.append(time.perf_counter() - begun)
            run.seconds = time.perf_counter() - started
            runs.append(run)
        log.close()
    return summary(runs, per_call)


@contextmanager
def service_alone(home: Path) -> Iterator[int]:
    """The port of `runnel serve` on a home whose stages do not run; it takes events without end."""
    log = EventLog(home / "log")
    with Store(home / "fold", "fold", writer=True) as store:
        FoldStage(store, LogSource(log))
    log.close()
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "runnel", "serve", "--home", str(home), "--port", str(port)]
    environment = os.environ | {"RUNNEL_SERVE__INTAKE__MAX_LAG_EVENTS": "1000000000"}
    with (home / "serve.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        wait_for(process, port, prepared("GET", "/readyz"), 200)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def all_shapes(port: int, calls: Calls, num_runs: int, seconds: float, system: Running | None) -> dict[str, Row]:
    """A row for each shape; with a system, its stages catch up before each run."""
    rows = {}
    for num_clients, per_call in SHAPES:
        runs = []
        for _ in range(num_runs + 1):
            if system is not None:
                system.settle()
            guess = GUESS if per_call > 1 else 5_000
            runs.append(measure(port, calls.take(round(guess * seconds / per_call), per_call), num_clients, seconds))
        rows[f"{num_clients} x {per_call}"] = summary(runs[1:], per_call)  # the first one warms up
    return rows


def main(
    data: Annotated[Path, typer.Option(envvar="RUNNEL_DATA")] = DATA,
    seconds: float = 1.5,
    runs: int = 5,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure each shape `runs` times for `seconds`."""
    calls = Calls(data)
    results: dict[str, Row] = {f"log alone x {size}": log_alone(calls, size, runs) for size in (1, 100, 1000)}
    with tempfile.TemporaryDirectory(prefix="runnel-empty-") as home, empty_service(Path(home)) as port:
        empty = all_shapes(port, calls, runs, seconds, None)
    with tempfile.TemporaryDirectory(prefix="runnel-alone-") as home, service_alone(Path(home)) as port:
        alone = all_shapes(port, calls, runs, seconds, None)
    with running() as system:
        found = all_shapes(system.port, calls, runs, seconds, system)
    for name, row in found.items():
        share = float(str(alone[name]["events/s"])) / float(str(empty[name]["events/s"]))
        results[f"empty handler {name}"] = empty[name]
        results[f"service alone {name}"] = {**alone[name], "share of empty": share}
        results[f"whole system {name}"] = row
    report("ingest_http", conditions(seconds=seconds, runs=runs), results, LIMIT, json_file)


if __name__ == "__main__":
    typer.run(main)
