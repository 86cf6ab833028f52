# What happens at ten times the rate that can be sustained? A minute of flood, before and after.
"""Starts `runnel up`, gives it Globo's first clicks to learn, and measures

- `at capacity`: lists to 32 clients and batches of 100 events from 8, together, each as fast as it is answered;
- `before`: both at half of that in calls a second (open loop);
- `flooded`: both at ten times the capacity for a minute;
- `after`: as before, from the moment the flood ends: the time after which nothing more is refused is the time to
  recover, and `caught up` is when the fold stage has folded all that was accepted.

    python -m benchmarks.overload --json overload.json

Latencies are of accepted calls; the flood's are compared with those at capacity. There as many lists are in flight as
the service ever takes on (`serve.admission.max_slates`): a lower bound would make accepted lists faster under a flood,
and refuse bursts that could be served. Memory is the anonymous memory of all processes, sampled every second.

Learned on the way: batches under the bound of all other calls (256) came out of a flood six times slower than at
capacity; with a bound of their own (16) they do not. A body over 16 KiB that HAProxy refuses costs its connection. The
flood shares the cores with the service, and goes first on them (`generator.go_first`): before it did, it was stopped
for up to a second just after it had woken HAProxy, and counted that as latency (p99 8 times that at capacity). Ray's
own metrics of HAProxy are a datagram a call that Python reads: a fifth of a core, now spared.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer

from benchmarks.client import prepared
from benchmarks.ingest_http import Calls
from benchmarks.ingest_http import measure as measure_events
from benchmarks.load import DATA
from benchmarks.open_loop import PER_CALL, Flooded, flooding
from benchmarks.report import Row, conditions, report
from benchmarks.request import measure as measure_slates
from benchmarks.running import Running, running

CLICKS = 30_000  # learned before anything is measured
LIMIT: Row = {"flooded / at capacity": 2.0, "recovered, s": 5.0, "bare (refused without Retry-After)": 0}


@dataclass
class Memory:
    """Anonymous memory of a process tree, sampled until `stop`."""

    root: int
    samples: list[int] = field(default_factory=list)  # bytes

    def __enter__(self) -> Memory:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            self.samples.append(anonymous(self.root))


def anonymous(pid: int) -> int:
    """Anonymous bytes of a process and all its descendants."""
    total = 0
    for process in (root := psutil.Process(pid), *root.children(recursive=True)):
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon"))
    return total


def rows(phase: str, floods: Sequence[Flooded]) -> dict[str, Row]:
    """A phase: a row for lists, one for calls with events."""
    found: dict[str, Row] = {}
    for name, flooded, accepted in zip(("lists", "batches"), floods, ("200", "202"), strict=True):
        total = sum(flooded.answers.values()) or 1
        found[f"{name} {phase}"] = {
            "sent/s": round(total / flooded.seconds),
            "accepted/s": round(flooded.count(accepted) / flooded.seconds),
            "p50 ms": flooded.p50,
            "p99 ms": flooded.p99,
            "refused": round(flooded.count("429", "503") / total, 3),
            "broken": flooded.count("broken"),
            "unsent": flooded.count("unsent"),
            "bare": flooded.bare,
        }
    return found


def caught_up(system: Running, started: float) -> float:
    """Seconds from a time on until the fold stage has folded all that is in the log."""
    while True:
        folded = sum(system.model().folded_offsets.values())
        if folded >= end_of_log(system):
            return time.perf_counter() - started
        time.sleep(0.05)


def end_of_log(system: Running) -> int:
    """The log's end offset, as a reader of its own sees it."""
    from stream.log import EventLog

    log = EventLog(system.home / "log")
    try:
        return log.end_offset()
    finally:
        log.close()


def warm(system: Running, calls: Calls) -> None:
    """Let the system learn something."""
    measure_events(system.port, calls.take(CLICKS // PER_CALL, PER_CALL), 1, 60.0)
    system.settle()


def capacity(system: Running, calls: Calls) -> dict[str, Row]:
    """Lists to 32 clients and batches from 8, at the same time, each as fast as those who wait get their answers."""
    wanted = [prepared("POST", "/v1/recommendations", b'{"user_id":"%d","n":20}' % user) for user in range(2000)]
    measure_slates(system.port, wanted, 8, 1.0)  # warm-up
    prepared_calls, posted = calls.take(2_000, PER_CALL), []
    post = threading.Thread(target=lambda: posted.append(measure_events(system.port, prepared_calls, 8, 5.0)))
    post.start()
    asked = measure_slates(system.port, wanted, 32, 5.0)
    post.join()
    found: dict[str, Row] = {}
    for name, each in (("lists", asked), ("batches", posted[0])):
        p50, p99 = (float(1000 * np.percentile(each.spent, q)) for q in (50, 99))
        found[f"{name} at capacity"] = {"accepted/s": len(each.spent) / each.seconds, "p50 ms": p50, "p99 ms": p99}
    return found


def figure(row: Row, name: str) -> float:
    """A number of a row."""
    return float(str(row[name]))


def main(
    data: Annotated[Path, typer.Option(envvar="RUNNEL_DATA")] = DATA,
    seconds: float = 60.0,
    times: float = 10.0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Flood for `seconds` at `times` the capacity."""
    calls = Calls(data)
    with running() as system:
        warm(system, calls)
        results = capacity(system, calls)
        lists, batches = (figure(row, "accepted/s") for row in results.values())
        system.settle()
        with flooding(system.port, lists / 2, batches / 2, 10.0) as floods:
            results |= rows("before", [flood.result() for flood in floods])
        system.settle()
        before = anonymous(system.pid)
        with Memory(system.pid) as memory, flooding(system.port, times * lists, times * batches, seconds) as floods:
            results |= rows("flooded", [flood.result() for flood in floods])
        ended = time.perf_counter()
        with flooding(system.port, lists / 2, batches / 2, 15.0) as floods:
            behind = caught_up(system, ended)
            after = [flood.result() for flood in floods]
        results |= rows("after", after)
        results["recovered, s"] = {"nothing refused": max(flood.last_refusal for flood in after), "caught up": behind}
        mib = {"before": before, "highest": max(memory.samples), "after": anonymous(system.pid)}
        results["memory, MiB"] = {name: size >> 20 for name, size in mib.items()}
    for name in ("lists", "batches"):
        flood, calm = results[f"{name} flooded"], results[f"{name} at capacity"]
        results[f"{name} flooded / at capacity"] = {q: figure(flood, q) / figure(calm, q) for q in ("p50 ms", "p99 ms")}
    facts = conditions(seconds=seconds, times=times, clicks=CLICKS, per_call=PER_CALL)
    report("overload", facts, results, LIMIT, json_file)


if __name__ == "__main__":
    typer.run(main)
