# Does anything grow or slow down over half an hour? Memory, files, latency and lag at 1,000 events a second.
"""python -m benchmarks.soak --minutes 30 --plot docs/soak.png --json soak.json

A real `runnel up` learns from Globo's clicks at 1,000 events a second, 10 a call, while the client of
benchmarks/freshness.py probes ten times a second. All that may grow for a good reason is bounded, so that what still
grows is a leak: the clicks' users and items are folded into 2,000 of each, records are short (50 entries, 100 seen,
5 slates), models keep of each item the 64 most seen with it, deltas are kept for one minute and events for two. Memory
and files are sampled every 5 s, latencies are told by the minute. *change*: the median of the last third against that
of the middle third, in which everything should have filled; *an hour*: the slope over both, in percent of the median.
Ctrl-C ends it early and tells what there is.

With no bound on items, of which Globo brings new ones all the time, it was half an hour of filling: lists took 4.0 ms
in the end instead of 3.3, and the learner's memory went from 520 to 920 MiB. A part of that was no filling: the newest
200 lists that coverage looks at kept the places of all items each, where ten were meant.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.freshness import Probing
from benchmarks.generator import Generator
from benchmarks.load import DATA, LoadResult, Plan, loading
from benchmarks.report import Figure, Row, conditions, report
from benchmarks.running import Running, running
from commands.processes import marked, read_note

RATE, PER_CALL, FOLD_INTO = 1000, 10, 2_000
SAMPLE_SECONDS = 5.0
SETTINGS = {
    "FOLD__DELTA_RETENTION_MS": "60000",
    "LEARN__DELTA_RETENTION_MS": "60000",
    "LEARN__EVENT_RETENTION_MS": "120000",
    "LEARN": '{"configs": {"covisitation": {"max_cells": 64}}}',
    "FOLD__STAGE__RECORDS__SEQUENCE": "50",
    "FOLD__STAGE__RECORDS__SEEN": "100",
    "FOLD__STAGE__RECORDS__SLATES": "5",
}
PERCENTILES = (50, 99)
_MIB = 1 << 20
_KINDS = {"fold": " fold ", "learn": " learn ", "replica": "ServeReplica", "haproxy": "haproxy"}  # in a command line


@dataclass
class Soak:
    """Series by name: (seconds, value)."""

    series: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def sample(self, system: Running, at: float) -> None:
        """Look at the memory of every process and at the files."""
        memory = dict.fromkeys([*_KINDS, "other"], 0)
        for process in system_processes(system.home):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
                command = " " + " ".join(process.cmdline()) + " "
                kind = next((kind for kind, part in _KINDS.items() if part in command), "other")
                memory[kind] += anonymous_bytes(process.pid)
        for kind, size in memory.items():
            self.series[f"{kind} anonymous MiB"].append((at, size / _MIB))
        for store in ("log", "fold", "learn"):
            size = sum(file.stat().st_blocks * 512 for file in (system.home / store).rglob("*") if file.is_file())
            self.series[f"{store} files MiB"].append((at, size / _MIB))

    def add_latencies(self, probing: Probing, started: float) -> None:
        """What the probes saw, by the minute; what came after the last sample is left out."""
        ended = started + max(points[-1][0] for points in self.series.values())
        times = {
            "request": [(at, ms) for at, ms in probing.requests],
            "session": [(p.posted_at, 1000 * (p.session_at - p.posted_at)) for p in probing.probes],
            "model": [(p.posted_at, 1000 * (p.model_at - p.posted_at)) for p in probing.probes],
        }
        for name, pairs in times.items():
            minutes: dict[int, list[float]] = defaultdict(list)
            for at, ms in pairs:
                if at > ended:
                    continue
                minutes[int((at - started) // 60)].append(ms)
            for percentile in PERCENTILES:
                values = [
                    (60.0 * minute + 30, np.percentile(minutes[minute], percentile)) for minute in sorted(minutes)
                ]
                self.series[f"{name} p{percentile} ms"] = [(at, float(value)) for at, value in values]
        self.series["lag ms"] = [(at - started, age) for at, age in probing.ages]


def system_processes(home: Path) -> list[psutil.Process]:
    """Every process of the system on this home."""
    note = read_note(home / "run" / "up.lock")
    return [] if note is None else [*marked(note.instance), psutil.Process(note.pid)]


def anonymous_bytes(pid: int) -> int:
    """Memory of its own, without the page cache that LMDB's maps show as resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:", 1)[1].split(None, 1)[0]) * 1024 if "RssAnon:" in status else 0


def watch(system: Running, load: Generator[LoadResult], minutes: float, console: Console) -> Soak:
    """Sample until the time is over, or a person says so."""
    soak, probing = Soak(), Probing(system.port, "soak")
    started = time.perf_counter()
    load.start()
    probing.start()
    try:
        while (elapsed := time.perf_counter() - started) < 60 * minutes:
            soak.sample(system, elapsed)
            time.sleep(SAMPLE_SECONDS)
    except KeyboardInterrupt:
        console.print("ended early")
    probing.stop()
    soak.add_latencies(probing, started)
    return soak


def row(points: list[tuple[float, float]]) -> Row:
    """Medians of the thirds, and how they differ; of fewer than three points the median alone."""
    at, values = np.array(points).T
    if len(values) < 3:
        return {"first third": float(np.median(values))}
    first, middle, last = (float(np.median(third)) for third in np.array_split(values, 3))
    settled = at >= at[0] + (at[-1] - at[0]) / 3
    figures: dict[str, Figure] = {"first third": first, "middle": middle, "last": last}
    figures["change %"] = 100 * (last - middle) / middle if middle else 0.0
    figures["% an hour"] = 3600 * 100 * _slope(at[settled], values[settled]) / middle if middle else 0.0
    return figures


def _slope(at: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Of a straight line through the points, for each second."""
    return float(np.polyfit(at, values, 1)[0]) if len(at) > 1 else 0.0


def plot(series: dict[str, list[tuple[float, float]]], file: Path) -> None:
    """Four panels over the minutes: memory, files, latencies, lag."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {"anonymous MiB": False, "files MiB": False, "ms": True, "lag ms": True}
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(9, 12), sharex=True, layout="constrained")
    for axis, (unit, is_log) in zip(axes, panels.items(), strict=True):
        for name, points in series.items():
            if name.endswith(unit) and (name == unit or unit != "ms" or name != "lag ms"):
                at, values = np.array(points).T
                axis.plot(at / 60, values, label=name, linewidth=0.4 if name == "lag ms" else 1.2)
        axis.set_ylabel(unit)
        axis.set_yscale("log" if is_log else "linear")
        axis.set_ylim(bottom=None if is_log else 0)
        axis.legend(fontsize="small", ncols=3)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("minutes")
    axes[0].set_title(f"{RATE:,} events a second")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main(
    minutes: float = 30.0,
    data: Annotated[Path, typer.Option(envvar="RUNNEL_DATA")] = DATA,
    plot_file: Annotated[Path | None, typer.Option("--plot")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Soak for `minutes`."""
    console = Console(stderr=True)
    with running(SETTINGS) as system:
        plan = Plan(system.port, RATE, PER_CALL, 60 * minutes, data, tag="soak", fold_into=FOLD_INTO)
        with loading(plan) as load:
            soak = watch(system, load, minutes, console)
    if plot_file is not None:
        plot(soak.series, plot_file)
    limit: Row = {"change %": "memory, files and medians within 5"}
    results = {name: row(points) for name, points in soak.series.items() if points}
    report(
        "soak",
        conditions(minutes=minutes, events_a_second=RATE, users_and_items=FOLD_INTO, **SETTINGS),
        results,
        limit,
        json_file,
    )


if __name__ == "__main__":
    typer.run(main)
