# How fast is POST /v1/recommendations? Latency and throughput of the real service over two catalogue sizes.
"""Makes a home by the real stages, starts `runnel up` on it (Ray Serve behind HAProxy, one replica), and asks for lists
of 20 with the full blend over 1, 8 and 32 keep-alive connections, idle and while 1,000 events/s are posted and learned:

    python -m benchmarks.request --items 20000 --items 100000 --json request.json

Beside them, in the same run, stands a FastAPI handler that does nothing, in the same mode. `in process`
(benchmarks/request_steps.py) calls the service without HTTP and tells the mean time of each step. Clients share the
machine's cores with the service; each asks again as soon as it has its answer, so that with C clients p50 is up to C
times the time of one. With 32, as many as a replica takes in, one that connects anew may be refused. Milliseconds but
for req/s.

Learned while optimising: nothing may cost a pass over the catalogue but the dot products (0.1 ms for 20,000 x 64, 0.6
for 100,000); the greatest k come from maxima of blocks, the encoder runs once a query, a slate's likenesses are one
product, and Python's full collections must not look at what was imported. fp16 vectors are slower here; bf16 ones are
faster at 100,000 items (0.36 ms), slower at 20,000, and inexact.
A request starts hundreds of operations of numpy on some hundred numbers each, and beside the other processes
each takes two to three times what it takes in a loop alone: their number counts. np.pad, np.take_along_axis and np.mean
take two to five times what an index or a sum does; the garbage collector and page faults cost nothing.
Much of the time is cold caches: the product streams more than a core's second level holds, and where nothing ran for
3 ms between two requests each takes 1.4 times as long as one behind the other, without HTTP. So the time of one client
is more than that in process and an empty handler's together, and what is touched counts more than what is computed:
looks for a new version took 0.4 ms each where they take 0.014 in a loop.
So requests that wait together are answered together (serving/turns.py): in process, eight take 1.7 ms each where one
takes 3.6, four 2.4; two of them as much as two alone. Over HTTP it gave 315 for 256 requests a second with 8 clients,
341 for 261 with 32; answering turns of less than four one by one took back half of that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.client import prepared
from benchmarks.closed_loop import Asked, ask
from benchmarks.empty_service import empty_service
from benchmarks.load import Load
from benchmarks.made_home import Clicks, make_home
from benchmarks.report import Figure, Row, conditions, report
from benchmarks.running import running

N = 20  # places of a list
CLIENTS = (1, 8, 32)
EVENTS_PER_SECOND, PER_CALL = 1000, 10
LIMIT: dict[str, Figure] = {
    "20k p50 ms": 4.0,
    "20k p99 ms": 15.0,
    "20k req/s at 8": 300,
    "100k p50 ms": 8.0,
    "while learning": "2 x these",
}


def main(
    items: Annotated[list[int] | None, typer.Option(help="Catalogue sizes.")] = None,
    users: int = 5000,
    events: int = 100_000,
    seconds: float = 2.0,
    rounds: int = 5,
    in_process: Annotated[bool, typer.Option("--in-process", help="Without HTTP: times of the steps alone.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure `rounds` rounds of `seconds` for each row."""
    results = {} if in_process else empty_handler(seconds, rounds)
    for num_items in items or [20_000, 100_000]:
        results |= of_size(Clicks(num_items, users), events, None if in_process else (seconds, rounds))
    told = conditions(users=users, events=events, n=N, rounds=rounds, seconds=seconds)
    report("request", told, results, LIMIT, json_file)


def of_size(clicks: Clicks, events: int, over: tuple[float, int] | None) -> dict[str, Row]:
    """The rows of one catalogue size; `over` HTTP in rounds (seconds, how many), or not."""
    results: dict[str, Row] = {}
    name = f"{clicks.num_items // 1000}k"

    def fill(home: Path) -> None:
        make_home(home, clicks, events)
        results[f"{name} in process"] = steps_of(home, clicks)

    if over is None:
        with tempfile.TemporaryDirectory(prefix="runnel-request-") as folder:
            fill(Path(folder))
    else:
        with running(fill=fill) as system:
            results |= {f"{name} {row}": found for row, found in over_http(system.port, clicks, *over)}
    return results


def empty_handler(seconds: float, rounds: int) -> dict[str, Row]:
    """A row for each number of clients."""
    nothing = [prepared("POST", "/v1/events", b"{}")]
    with tempfile.TemporaryDirectory(prefix="runnel-request-") as folder, empty_service(Path(folder)) as port:
        return {
            f"empty handler x {count}": summary([measure(port, nothing, count, seconds, 202) for _ in range(rounds)])
            for count in CLIENTS
        }


def steps_of(home: Path, clicks: Clicks) -> Row:
    """Milliseconds of the steps, measured in a process of its own that computes in one thread, as a replica does."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.request_steps",
        str(home),
        str(clicks.num_items),
        str(clicks.num_users),
    ]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, check=True)
    row: Row = json.loads(done.stdout)
    return row


def over_http(port: int, clicks: Clicks, seconds: float, rounds: int) -> Iterator[tuple[str, Row]]:
    """A row for each number of clients, idle and learning."""
    bodies = [f'{{"user_id":"{clicks.user()}","n":{N}}}'.encode() for _ in range(4096)]
    wanted = [prepared("POST", "/v1/recommendations", body) for body in bodies]
    measure(port, wanted, 8, seconds)  # warm-up
    for count in CLIENTS:
        yield f"idle x {count}", summary([measure(port, wanted, count, seconds) for _ in range(rounds)])
    with posting(port, clicks, len(CLIENTS) * seconds * rounds + seconds + 5):
        measure(port, wanted, 1, seconds)  # until the learner has the pace
        for count in CLIENTS:
            yield f"learning x {count}", summary([measure(port, wanted, count, seconds) for _ in range(rounds)])


def measure(port: int, requests: Sequence[bytes], num_clients: int, seconds: float, status: int = 200) -> Asked:
    """Requests again and again from so many clients; what is refused as too much at once is not counted."""
    return ask(port, cycle(requests), num_clients, seconds, status)


def summary(rounds: Sequence[Asked]) -> Row:
    """Medians over rounds, and the least and greatest of p50 and requests a second."""
    p50, p99 = ([_ms(np.percentile(found.spent, q)) for found in rounds] for q in (50, 99))
    rates = [len(found.spent) / found.seconds for found in rounds]
    return {
        "p50": float(np.median(p50)),
        "p50 spread": f"{min(p50):.2f}..{max(p50):.2f}",
        "p99": float(np.median(p99)),
        "p99 spread": f"{min(p99):.2f}..{max(p99):.2f}",
        "req/s": float(np.median(rates)),
        "req/s spread": f"{min(rates):.0f}..{max(rates):.0f}",
    }


@contextmanager
def posting(port: int, clicks: Clicks, seconds: float) -> Iterator[None]:
    """Events at their pace, over 2 connections, while the block runs."""
    values = list(clicks.drawn(round(seconds * EVENTS_PER_SECOND), time.time_ns() // 1_000_000))
    chunks = [values[start : start + PER_CALL] for start in range(0, len(values), PER_CALL)]
    calls = [prepared("POST", "/v1/events", b"[" + b",".join(chunk) + b"]") for chunk in chunks]
    load = Load(port, calls, EVENTS_PER_SECOND / PER_CALL, num_connections=2)
    thread = threading.Thread(target=load.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        load.stop()
        thread.join()


def _ms(seconds: float | np.floating) -> float:
    return round(1000 * float(seconds), 3)


if __name__ == "__main__":
    typer.run(main)
