# A batch of kills: stages and writers on one home, SIGKILL at random instants, then the comparison.
from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import psutil

from state.store import Store, StoreMissing
from stream.log import PARTITION, EventLog
from tests.chaos.comparison import Acknowledged, compare
from tests.stream.stage_process import finish, start
from tests.stream.waiting import stored_offsets, wait_until

STAGES = ("fold", "learn")
WRITERS = ("writer-a", "writer-b")
STARTING_SHARE = 0.25  # of the kills come while something still starts
AIMED_SHARE = 0.6  # of the kills come just after a commit; the others take what they hit
AIMED_SECONDS = 0.001
AT_ONCE_SHARE = 0.5  # of the aimed kills come as soon as the commit shows: between two commits that should be one
CHILD_SHARE = 0.3  # of the kills of a writer hit the process that writes its log alone
WORK_SECONDS = 60.0  # a process works by then, on any machine


@dataclass(frozen=True)
class Outcome:
    """What a batch showed; a finding is a sentence about what is wrong."""

    kills: int
    events: int  # values in the log
    findings: list[str]


class Crew:
    """The processes of one home by name; one that is killed is started again at once."""

    def __init__(self, home: Path, names: tuple[str, ...]) -> None:
        self._home, self._starts = home, 0
        self._marks: dict[str, str] = {}  # of a writer's values since its last start
        self.acknowledged = home.parent / "acknowledged"
        self.acknowledged.mkdir()
        self.processes = {name: self._start(name) for name in names}
        self.findings: list[str] = []

    def kill(self, name: str, child_alone: bool = False) -> None:
        """SIGKILL, and a new start; or to the writer's log writer alone, which the writer starts again."""
        process = self.processes[name]
        if child_alone and process.poll() is None and (children := psutil.Process(process.pid).children()):
            for child in children:
                child.kill()
            return
        if process.poll() is not None:
            self.findings.append(f"{name} ended by itself with {process.returncode}")
        if name in STAGES:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)  # its log writer too, which would write what it was sent
        process.wait()
        self.processes[name] = self._start(name)

    def await_work(self, name: str) -> None:
        """Return when the process does its work, however long it takes to start."""
        if name in STAGES:
            wait_until(lambda: stored_offsets(self._home / name, None) != {}, WORK_SECONDS)  # there is a store
            await_commit(self._home, name, WORK_SECONDS)
        else:
            file = self.acknowledged / self._marks[name]
            wait_until(lambda: file.exists() and file.stat().st_size > 0, WORK_SECONDS)

    def finish(self, names: tuple[str, ...]) -> None:
        """Tell these to stop in good order."""
        for name in names:
            finish(self.processes.pop(name))

    def abandon(self) -> None:
        """Leave nothing running."""
        for process in self.processes.values():
            process.kill()
            process.wait()

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        if name in STAGES:
            return start(name, self._home, "eager")
        self._starts += 1
        mark = self._marks[name] = f"{name}{self._starts}"
        command = [sys.executable, "-m", "tests.chaos.writer", str(self._home), mark]
        # As `start` of a stage: SIGTERM waits until it can be answered.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return subprocess.Popen([*command, str(self.acknowledged / mark)], process_group=0)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def run_batch(folder: Path, rng: np.random.Generator, num_kills: int, targets: tuple[str, ...]) -> Outcome:
    """Kill the targets (stages or writers) at random instants under load, in `folder`, which must be empty."""
    home = folder / "home"
    EventLog(home / "log").close()
    names = STAGES + (WRITERS if targets == WRITERS else WRITERS[:1])
    crew = Crew(home, names)
    try:
        for _ in range(num_kills):
            name = str(rng.choice(targets))
            if rng.random() >= STARTING_SHARE:
                crew.await_work(name)
            sleep(rng.uniform(0.0, 0.5))  # the instant, not a wait
            if rng.random() < AIMED_SHARE:
                await_commit(home, name)
                if rng.random() >= AT_ONCE_SHARE:
                    sleep(rng.uniform(0.0, AIMED_SECONDS))
            crew.kill(name, name in WRITERS and rng.random() < CHILD_SHARE)
        crew.finish(tuple(name for name in names if name in WRITERS))
        log = EventLog(home / "log")
        end = log.end_offset()
        wait_until(lambda: stored_offsets(home / "learn", "learn").get(PARTITION) == end, 120)
        crew.finish(STAGES)
    finally:
        crew.abandon()
    all_survive = targets != WRITERS
    acknowledged = Acknowledged.of_folder(crew.acknowledged, all_survive)
    findings = crew.findings + compare(home, log, folder / "uninterrupted", acknowledged)
    log.close()
    return Outcome(num_kills, end, findings)


def await_commit(home: Path, name: str, seconds: float = 1.0) -> None:
    """Return just after the next commit to the store of that name, or to the writers' log, or after the time where
    there is none (the process still starts)."""
    with ExitStack() as stack:
        try:
            number = _commits(stack, home, name)
        except StoreMissing:
            return
        deadline, first = monotonic() + seconds, number()
        while number() == first and monotonic() < deadline:  # without rest: a commit's end is some microseconds long
            pass


def _commits(stack: ExitStack, home: Path, name: str) -> Callable[[], int]:
    """What tells the number of the newest commit."""
    if name == "log" or name in WRITERS:
        log = EventLog(home / "log")
        stack.callback(log.close)
        return log.last_commit
    store = stack.enter_context(Store(home / name))

    def number() -> int:
        with store.read() as txn:
            return int(txn.id())

    return number
