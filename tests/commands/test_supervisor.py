# The supervisor: restarts what dies, gives up on what was started wrongly, leaves nobody behind.
from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands.errors import CommandError
from commands.processes import marked, read_note
from commands.supervisor import Supervisor, SupervisorConfig
from tests.commands.stand_ins import HEIRS, PARENT_OF_SLEEPER, SLEEPER, first_number, is_alive, wait_until

_QUICK = SupervisorConfig(first_backoff=0.05, longest_backoff=0.2, stop_patience=5.0)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, said: list[str]) -> Iterator[Supervisor]:
    running = Supervisor(tmp_path, f"test-{os.getpid()}", said.append, _QUICK)
    yield running
    running.stop()


def _pid(run_dir: Path, name: str) -> int:
    note = read_note(run_dir / f"{name}.pid")
    assert note is not None
    return note.pid


def _poll_until_restarted(supervisor: Supervisor, name: str, restarts: int) -> None:
    def restarted() -> bool:
        supervisor.poll(time.monotonic())
        return supervisor.restarts[name] >= restarts

    wait_until(restarted, f"{restarts} restarts of {name}")


def test_a_killed_child_is_started_again_and_the_death_is_said(
    supervisor: Supervisor, tmp_path: Path, said: list[str]
) -> None:
    supervisor.start("fold", SLEEPER, time.monotonic())
    before = _pid(tmp_path, "fold")
    os.kill(before, signal.SIGKILL)
    _poll_until_restarted(supervisor, "fold", 1)
    assert is_alive(_pid(tmp_path, "fold"))
    assert _pid(tmp_path, "fold") != before
    assert any("fold died (killed by signal 9" in line for line in said)


def test_a_disk_that_takes_nothing_when_a_child_is_to_start_is_waited_for(tmp_path: Path, said: list[str]) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    supervisor = Supervisor(run_dir, f"test-{os.getpid()}", said.append, _QUICK)
    supervisor.start("fold", SLEEPER, time.monotonic())
    pid = _pid(run_dir, "fold")
    run_dir.rename(tmp_path / "away")
    os.kill(pid, signal.SIGKILL)

    def is_put_off() -> bool:
        supervisor.poll(time.monotonic())
        return any("fold cannot be started" in line for line in said)

    wait_until(is_put_off, "a start that fails")
    (tmp_path / "away").rename(run_dir)
    _poll_until_restarted(supervisor, "fold", 1)
    assert is_alive(_pid(run_dir, "fold"))
    supervisor.stop()


def test_what_a_killed_child_had_started_is_ended_before_it_starts_again(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.start("serve", PARENT_OF_SLEEPER, time.monotonic())
    supervisor.start("fold", SLEEPER, time.monotonic())
    grandchild = first_number(tmp_path / "serve.log")
    os.kill(_pid(tmp_path, "serve"), signal.SIGKILL)
    _poll_until_restarted(supervisor, "serve", 1)
    assert not is_alive(grandchild)
    assert supervisor.restarts["fold"] == 0


def test_the_wait_before_a_restart_grows_while_a_child_keeps_dying(supervisor: Supervisor, said: list[str]) -> None:
    supervisor.start("learn", [sys.executable, "-c", "raise SystemExit(1)"], time.monotonic())
    _poll_until_restarted(supervisor, "learn", 3)
    waits = [line.rsplit(" in ", 1)[1] for line in said if "starting it again" in line]
    assert waits[:3] == ["0.1 s", "0.1 s", "0.2 s"]  # 0.05, 0.1, 0.2 in one decimal


def test_a_child_that_was_started_wrongly_is_not_restarted_and_its_last_words_are_told(supervisor: Supervisor) -> None:
    command = [sys.executable, "-c", "import sys; print('runnel: port = 0'); sys.exit(2)"]
    supervisor.start("serve", command, time.monotonic())
    with pytest.raises(CommandError, match=r"serve cannot run .*: runnel: port = 0"):
        _poll_until_restarted(supervisor, "serve", 1)


def test_stop_ends_children_and_all_that_they_started_in_sessions_of_their_own(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.start("serve", PARENT_OF_SLEEPER, time.monotonic())
    child, grandchild = _pid(tmp_path, "serve"), first_number(tmp_path / "serve.log")
    supervisor.stop()
    assert not is_alive(child)
    assert not is_alive(grandchild)
    assert not list(tmp_path.glob("*.pid"))


def test_stop_ends_what_is_started_while_it_ends_the_others(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start("serve", HEIRS, time.monotonic())
    first_number(tmp_path / "serve.log")
    supervisor.stop()
    assert marked(f"test-{os.getpid()}") == []


def test_a_child_that_ignores_sigterm_is_ended_all_the_same(tmp_path: Path) -> None:
    config = SupervisorConfig(stop_patience=0.2)
    supervisor = Supervisor(tmp_path, f"stubborn-{os.getpid()}", lambda _: None, config)
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    supervisor.start("fold", [sys.executable, "-c", stubborn], time.monotonic())
    pid = _pid(tmp_path, "fold")
    first_number(tmp_path / "fold.log")
    supervisor.stop()
    assert not is_alive(pid)
