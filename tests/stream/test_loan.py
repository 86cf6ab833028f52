# Commands borrow a store: its stage lets go of it between two steps, and goes on whatever becomes of them.
from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Event, Thread
from time import sleep

import numpy as np
import pytest

from state.dump import dump
from state.lock import is_written
from state.store import Store, StoreLocked
from stream.loan import borrowed, is_wanted
from stream.log import PARTITION, EventLog
from tests.stream.helpers import NOW, value, view
from tests.stream.stage_process import finish, start
from tests.stream.waiting import stored_offsets, wait_until

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, pathlib
from stream.loan import borrowed
with borrowed(pathlib.Path(sys.argv[1])):
    print("borrowed", flush=True)
    sys.stdin.read()
"""


def append(home: Path, start_at: int, num_events: int) -> None:
    log = EventLog(home / "log")
    for at in range(start_at, start_at + num_events):
        log.append([value(view(f"u{at % 7}", f"i{at % 40}", at))], NOW + at)
    log.close()


def folded(home: Path) -> int:
    return stored_offsets(home / "fold", "fold").get(PARTITION, 0)


def test_a_stage_lets_go_of_its_store_and_goes_on_when_the_command_is_done(tmp_path: Path) -> None:
    append(tmp_path, 0, 50)
    folder = start("fold", tmp_path)
    wait_until(lambda: folded(tmp_path) == 50)
    with borrowed(tmp_path / "fold"):
        append(tmp_path, 50, 50)
        with Store(tmp_path / "fold", "fold", writer=True) as store:
            assert store.is_writer
        assert folded(tmp_path) == 50
    wait_until(lambda: folded(tmp_path) == 100)
    finish(folder)


def test_a_stage_goes_on_when_the_command_is_killed(tmp_path: Path) -> None:
    append(tmp_path, 0, 50)
    folder = start("fold", tmp_path)
    wait_until(lambda: folded(tmp_path) == 50)
    arguments = [sys.executable, "-c", HOLD, str(tmp_path / "fold")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"borrowed\n"
        append(tmp_path, 50, 50)
        command.kill()
    wait_until(lambda: folded(tmp_path) == 100)
    finish(folder)


def test_a_stage_that_is_told_to_stop_does_not_wait_for_the_command(tmp_path: Path) -> None:
    append(tmp_path, 0, 1)
    folder = start("fold", tmp_path)
    wait_until(lambda: folded(tmp_path) == 1)
    with borrowed(tmp_path / "fold"):
        finish(folder)


def test_a_second_command_is_refused_and_the_store_is_free_after_the_first(tmp_path: Path) -> None:
    (tmp_path / "fold").mkdir()
    with borrowed(tmp_path / "fold"):
        assert is_wanted(tmp_path / "fold")
        with pytest.raises(StoreLocked, match="is being worked on by another command"), borrowed(tmp_path / "fold"):
            pass
    assert not is_wanted(tmp_path / "fold")


def test_a_writer_that_does_not_let_go_is_named(tmp_path: Path) -> None:
    said = r"process \d+ \(.*\) did not let go of it"
    with (
        Store(tmp_path / "fold", "fold", writer=True),
        pytest.raises(StoreLocked, match=said),
        borrowed(tmp_path / "fold", patience_seconds=0.1),
    ):
        pass
    assert not is_written(tmp_path / "fold")


class Load:
    """Appends one event after the other in a thread, until told to stop."""

    def __init__(self, log: EventLog) -> None:
        self.num_events = 0
        self._log, self._stop = log, Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            at = self.num_events
            self._log.append([value(view(f"u{at % 7}", f"i{at % 40}", at))], NOW + at)
            self.num_events += 1
            self._stop.wait(0.001)


def test_everything_is_compacted_under_load_with_kills_and_no_event_is_lost_or_twice(tmp_path: Path) -> None:
    home, rng = tmp_path / "home", np.random.default_rng(3)
    log = EventLog(home / "log")
    load = Load(log)
    stages = [start(name, home) for name in ("fold", "learn")]
    wait_until(lambda: stored_offsets(home / "learn", "learn").get(PARTITION, 0) > 0)
    command = [sys.executable, str(ROOT / "runnel.py"), "compact", "--home", str(home)]
    for lines_before_kill in (0, 1, 2, None):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as compacting:
            assert compacting.stdout is not None
            if lines_before_kill is None:
                said = compacting.stdout.readlines()
                continue
            wait_until(lambda: is_wanted(home / "learn") or compacting.poll() is not None)
            for _ in range(lines_before_kill):
                compacting.stdout.readline()
            sleep(rng.uniform(0.0, 0.02))  # the instant, not a wait
            compacting.kill()
    assert compacting.returncode == 0
    assert [line.split(":")[0] for line in said] == [str(home / part) for part in ("learn", "fold", "log")]
    load.stop()
    num_events = load.num_events
    assert len(list(home.rglob("data.mdb"))) == 3
    wait_until(lambda: stored_offsets(home / "learn", "learn").get(PARTITION) == num_events)
    for stage in stages:
        finish(stage)
    assert [message.offset for message in log.read(0, 10**6)] == list(range(num_events))
    log.close()
    append(tmp_path / "calm", 0, num_events)
    calm = [start(name, tmp_path / "calm") for name in ("fold", "learn")]
    wait_until(lambda: stored_offsets(tmp_path / "calm" / "learn", "learn").get(PARTITION) == num_events)
    for stage in calm:
        finish(stage)
    for name in ("fold", "learn"):
        with Store(home / name) as store, Store(tmp_path / "calm" / name) as expected:
            assert dump(store) == dump(expected)
            assert store.verify() == []
