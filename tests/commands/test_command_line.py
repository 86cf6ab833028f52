# The command line from outside: help for a newcomer, plain errors, nothing heavy imported for either.
from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from commands.durations import parse_duration

_ROOT = Path(__file__).resolve().parents[2]
_COMMANDS: tuple[str, ...] = (
    "up",
    "fold",
    "learn",
    "serve",
    "replay",
    "evaluate",
    "simulate",
    "status",
    "snapshot",
    "rollback",
)
_COMMANDS += ("compact", "dead-letters")


def _runnel(*arguments: str, cwd: Path = _ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(_ROOT / "runnel.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_help_lists_every_command() -> None:
    listed = _runnel("--help").stdout
    assert all(f" {name} " in listed for name in _COMMANDS)


@pytest.mark.parametrize("name", _COMMANDS)
def test_help_of_a_command_says_what_it_does(name: str) -> None:
    answer = _runnel(name, "--help")
    assert answer.returncode == 0
    assert len(answer.stdout.split()) > 30


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, runnel\n"
        "try: runnel.app(['up', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('ray', 'torch', 'lmdb', 'numpy', 'fastapi') if name in sys.modules], file=sys.stderr)"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True)
    assert answer.stderr.strip() == "[]"


def test_python_dash_m_runs_the_same_command_line() -> None:
    command = [sys.executable, "-m", "runnel", "--help"]
    assert "simulate" in subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True).stdout


def test_up_on_a_port_in_use_names_port_and_process_and_leaves_the_home_free(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for _ in range(2):
            answer = _runnel("up", "--home", str(tmp_path), "--port", str(port))
            assert answer.returncode == 2
            assert f"port {port} on 127.0.0.1" in answer.stderr
            assert "in use by process" in answer.stderr
            assert "Traceback" not in answer.stderr


def test_status_of_a_home_where_nothing_runs_says_so(tmp_path: Path) -> None:
    answer = _runnel("status", "--home", str(tmp_path))
    assert answer.returncode == 2
    assert f"nothing runs on {tmp_path}" in answer.stderr


def test_replay_without_its_data_names_the_file(tmp_path: Path) -> None:
    answer = _runnel("replay", "globo", "--data", str(tmp_path))
    assert answer.returncode == 2
    assert str(tmp_path) in answer.stderr
    assert "Traceback" not in answer.stderr


def test_simulate_writes_the_same_users_and_items_for_the_same_seed(tmp_path: Path) -> None:
    lines = []
    for name in ("a", "b"):
        answer = _runnel("simulate", "--out", str(tmp_path / name), "--events", "500", "--seed", "3")
        assert answer.returncode == 0, answer.stderr
        text = (tmp_path / name).read_text().splitlines()
        lines.append([line.split('"timestamp"')[0] for line in text])  # the clock differs
    assert len(lines[0]) == 500
    assert lines[0] == lines[1]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("5m", 300.0), ("1h", 3600.0), ("0.5", 0.5)])
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
