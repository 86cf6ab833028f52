# A batch of kills on a whole running system: its replicas, or all of its processes at once, under HTTP load.
from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Literal

import httpx
import numpy as np

from commands.processes import read_note
from serving.ports import free_ports
from state.dump import dump
from state.offsets import get_offsets
from state.soundness import unsound
from state.store import Store
from stream.log import EventLog, LogSource
from tests.chaos.batch import AIMED_SECONDS, AIMED_SHARE, STARTING_SHARE, Outcome, await_commit
from tests.commands.whole_system import (
    READY_SECONDS,
    ROOT,
    HttpLoad,
    is_quiet,
    kill_everything,
    kill_replicas,
    uninterrupted,
    up,
    wait_until_ready,
)
from tests.serving.helpers import wait_until

NUM_LOADS = 2
SETTLE_SECONDS = 180.0


def run_system_batch(
    folder: Path, rng: np.random.Generator, num_kills: int, target: Literal["replica", "tree"]
) -> Outcome:
    """Kill replicas, or everything, at random instants, in `folder`, which must be empty."""
    home, port = folder / "home", free_ports(1)[0]
    loads = [HttpLoad(port, int(seed)) for seed in rng.integers(1 << 30, size=NUM_LOADS)]
    try:
        if target == "tree":
            for _ in range(num_kills):
                _kill_a_tree(home, port, rng)
        with up(home, port) as process:
            if target == "replica":
                kill_replicas_at_random(home, port, rng, num_kills)
            for load in loads:
                load.stop()
            wait_until(lambda: _is_settled(home, port), "all is learned and served", SETTLE_SECONDS)
            kill_everything(home, process)
    finally:
        for load in loads:
            load.stop()
    acknowledged = set().union(*(load.acknowledged for load in loads))
    log = EventLog(home / "log")
    findings = [*_log_findings(log, acknowledged), *_content_findings(home, log, folder / "uninterrupted")]
    end = log.end_offset()
    log.close()
    return Outcome(num_kills, end, findings + [f"log: {finding}" for finding in unsound(home / "log")])


def kill_replicas_at_random(home: Path, port: int, rng: np.random.Generator, num_kills: int) -> None:
    """SIGKILL to all replicas again and again, some while they start, some just after a commit."""
    killed = 0
    while killed < num_kills:
        if rng.random() >= STARTING_SHARE:
            wait_until(lambda: _is_ready(port), "a replica answers", READY_SECONDS)
        sleep(rng.uniform(0.1, 3.0))  # the instant, not a wait
        _aim(home, rng)
        killed += kill_replicas(home)


def _is_ready(port: int) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5.0).is_success
    return False


def _kill_a_tree(home: Path, port: int, rng: np.random.Generator) -> None:
    """Start everything, and kill it while it starts or while it runs."""
    command = [sys.executable, str(ROOT / "runnel.py"), "up", "--home", str(home), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        if rng.random() < STARTING_SHARE:
            sleep(rng.uniform(0.2, 9.0))
        else:
            wait_until_ready(process, port)
            sleep(rng.uniform(0.2, 5.0))
            _aim(home, rng)
        if read_note(home / "run" / "up.lock") is None:  # it has started nothing yet
            process.kill()
        else:
            kill_everything(home, process)


def _aim(home: Path, rng: np.random.Generator) -> None:
    if rng.random() < AIMED_SHARE:
        await_commit(home, str(rng.choice(["log", "fold", "learn"])))
        sleep(rng.uniform(0.0, AIMED_SECONDS))


def _is_settled(home: Path, port: int) -> bool:
    """Whether the newest version answers, and has learned all that the log holds, slates too."""
    log = EventLog(home / "log")
    end = log.end_offset()
    log.close()
    with suppress(httpx.HTTPError, KeyError):
        return is_quiet(port) and _learned_offset(home) == end
    return False


def _learned_offset(home: Path) -> int:
    with Store(home / "learn") as store, store.read() as txn:
        return sum(get_offsets(txn, store).values())


def _log_findings(log: EventLog, acknowledged: set[str]) -> Iterator[str]:
    values = [json.loads(message.value) for message in log.read(0, log.end_offset())]
    events = [event for value in values for event in (value if isinstance(value, list) else [value])]
    times = Counter(event["event_id"] for event in events if event["type"] != "slate")
    yield from (f"log: event {event_id} stands there {count} times" for event_id, count in times.items() if count > 1)
    yield from (f"log: event {event_id} was acknowledged and is not there" for event_id in acknowledged - times.keys())
    if len(times) < 100:
        yield f"log: {len(times)} events: there was no load"


def _content_findings(home: Path, log: EventLog, base: Path) -> Iterator[str]:
    for name, parts in uninterrupted(LogSource(log), base).items():
        with Store(home / name) as store:
            yield from (f"{name}: {finding}" for finding in store.verify())
            found = dump(store)
        for part in parts.keys() | found.keys():
            if found.get(part) != parts.get(part):
                yield f"{name}: {part} differs from that of an uninterrupted run"
