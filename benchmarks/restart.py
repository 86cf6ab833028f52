# How long from kill -9 of everything to a ready service, with a million users and a hundred thousand items.
"""Run (about five minutes, 4 GB of disk; `--users 10000 --items 2000 --runs 1` for a look):

    python -m benchmarks.restart --json restart.json

Two homes: an empty one, and one with `--users` records of 20 entries in both stages' stores, built in bulk, and
`--items` items that the real stages have folded and learned. Of each in turn: `runnel up` until ready; then, `runs`
times, SIGKILL of the whole process tree, the same command again, and the time until /readyz answers 200, asked every
20 ms. What the empty home takes is Ray's own start (and Python's imports); `beyond Ray` is the difference of the
medians. The first recommendation is the first request after that, of a user with a record, by the client's clock.

`alone` are the parts of loading, each in one process without Ray, imports not counted: the fold stage, the learn stage,
and a replica's first version (view).
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import torch
import typer

from benchmarks.bulk import fill_records, user_id
from benchmarks.client import Connection, prepared
from benchmarks.made_home import Clicks, make_home
from benchmarks.report import Row, conditions, report
from models.registry import MODELS, build_models
from serving.ports import free_ports
from state.follower import StoreSource
from state.store import Stage, Store
from state.view import View
from stream.fold import FoldStage
from stream.learn import LearnStage
from stream.log import EventLog, LogSource
from stream.run import FOLD_NAME

ROOT = Path(__file__).resolve().parents[1]
NUM_ENTRIES = 20
DEADLINE_SECONDS = 180.0
LIMIT = {"beyond Ray s": 5.0, "first recommendation ms": 20.0}


def build(home: Path, num_users: int, num_items: int, num_events: int) -> None:
    """A home of so many users and items; all items and some more events learned."""
    stages: tuple[Stage, ...] = ("fold", "learn")
    for stage in stages:
        with Store(home / stage, stage, writer=True) as store:
            fill_records(store, num_users, NUM_ENTRIES, num_items, np.random.default_rng(0))
    make_home(home, Clicks(num_items, num_users), num_events)


class System:
    """`runnel up` of a home, which can be killed and started again."""

    def __init__(self, home: Path) -> None:
        self._home, self._port = home, free_ports(1)[0]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start; seconds until it is ready."""
        command = [sys.executable, str(ROOT / "runnel.py"), "up", "--home", str(self._home), "--port", str(self._port)]
        started = time.monotonic()
        with (self._home.parent / f"{self._home.name}.log").open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        while time.monotonic() - started < DEADLINE_SECONDS:
            if self._process.poll() is not None:
                raise RuntimeError(f"runnel up of {self._home} ended with {self._process.returncode}")
            if self._is_ready():
                return time.monotonic() - started
            time.sleep(0.02)
        raise RuntimeError(f"runnel up of {self._home} was not ready within {DEADLINE_SECONDS:.0f} s")

    def kill(self) -> None:
        """SIGKILL of the whole tree at once."""
        assert self._process is not None
        parent = psutil.Process(self._process.pid)
        tree = [parent, *parent.children(recursive=True)]
        for process in tree:
            process.kill()
        self._process.wait()
        psutil.wait_procs(tree, timeout=10)

    def stop(self) -> None:
        """End it in good order, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(60)

    def recommend_ms(self, user: str) -> float:
        """Milliseconds of one recommendation of 20 items."""
        request = prepared("POST", "/v1/recommendations", json.dumps({"user_id": user, "n": 20}).encode())
        connection = Connection(self._port)
        started = time.perf_counter()
        reply = connection.call(request)
        seconds = time.perf_counter() - started
        connection.close()
        if reply.status != 200 or not json.loads(reply.body)["items"]:
            raise RuntimeError(f"the first recommendation failed: {reply}")
        return 1000 * seconds

    def _is_ready(self) -> bool:
        connection = Connection(self._port)
        try:
            return connection.call(prepared("GET", "/readyz")).status == 200
        except OSError:
            return False
        finally:
            connection.close()


def restarts(home: Path, runs: int, user: str | None) -> tuple[list[float], list[float]]:
    """Seconds to ready of each restart after a kill, and the first recommendation's milliseconds for `user`."""
    system, seconds, first = System(home), [], []
    try:
        system.start()
        for _ in range(runs):
            system.kill()
            seconds.append(system.start())
            if user is not None:
                first.append(system.recommend_ms(user))
    finally:
        system.stop()
    return seconds, first


def alone(home: Path) -> dict[str, float]:
    """Seconds of each part of loading, in this process."""
    torch.set_num_threads(1)
    log, seconds = EventLog(home / "log"), {}

    def timed(name: str, work: Callable[[], object]) -> None:
        started = time.perf_counter()
        work()
        seconds[name] = time.perf_counter() - started

    with Store(home / "fold", "fold", writer=True) as fold, Store(home / "learn", "learn", writer=True) as learn:
        timed("fold", lambda: FoldStage(fold, LogSource(log)))
        models = build_models(MODELS)
        sources, rng = {FOLD_NAME: StoreSource(fold)}, np.random.default_rng(0)
        timed("learn", lambda: LearnStage(learn, sources, models, rng))
        view = View(fold, learn, lambda _: build_models(MODELS))
        timed("view", view.refresh)
        view.close()
    log.close()
    return seconds


def main(
    users: int = 1_000_000,
    items: int = 100_000,
    events: int = 20_000,
    runs: int = 5,
    folder: Annotated[Path | None, typer.Option("--dir")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure; homes lie below `--dir` (default: the system's temporary folder) and are removed."""
    results: dict[str, Row] = {}
    medians: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="runnel-restart-", dir=folder, ignore_cleanup_errors=True) as path:
        full = Path(path) / "full"
        build(full, users, items, events)
        results["alone s"] = alone(full)
        for home in (Path(path) / "empty", full):
            seconds, first = restarts(home, runs, user_id(users // 2) if home == full else None)
            medians[home.name] = float(np.median(seconds))
            results[home.name] = {
                "ready s": medians[home.name],
                "least": min(seconds),
                "most": max(seconds),
                "first recommendation ms": float(np.median(first)) if first else None,
                "worst": max(first, default=None),
            }
    results["beyond Ray"] = {"ready s": medians["full"] - medians["empty"]}
    report("restart", conditions(users=users, items=items, events=events, runs=runs), results, LIMIT, json_file)


if __name__ == "__main__":
    typer.run(main)
