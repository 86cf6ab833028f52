# The whole system as a person starts it: real processes, real Ray Serve, real HTTP.
from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from commands.processes import marked, read_note
from tests.commands.stand_ins import is_alive, wait_until

_ROOT = Path(__file__).resolve().parents[2]
_READY_SECONDS = 120.0

pytestmark = pytest.mark.timeout(400)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _runnel(*arguments: str) -> list[str]:
    return [sys.executable, str(_ROOT / "runnel.py"), *arguments]


@contextmanager
def _up(home: Path, port: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = _runnel("up", "--home", str(home), "--port", str(port), "--json", *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)


def _wait_until_ready(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5.0).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"not ready within {_READY_SECONDS:.0f} s")


def _finish(process: subprocess.Popen[str]) -> tuple[dict[str, object], str]:
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return json.loads(out.splitlines()[-1]), error


def _pid(home: Path, name: str) -> int:
    note = read_note(home / "run" / f"{name}.pid")
    return 0 if note is None else note.pid


def _instance(home: Path) -> str:
    note = read_note(home / "run" / "up.lock")
    assert note is not None
    return note.instance


def test_up_learns_restarts_what_dies_tells_its_status_and_leaves_nothing_on_ctrl_c(tmp_path: Path) -> None:
    port = _free_port()
    with _up(tmp_path, port) as process:
        _wait_until_ready(process, port)
        instance = _instance(tmp_path)

        second = subprocess.run(
            _runnel("up", "--home", str(tmp_path), "--port", str(_free_port())), capture_output=True, text=True
        )
        assert second.returncode == 2
        assert f"already run by process {process.pid} " in second.stderr

        sent = subprocess.run(
            _runnel("simulate", "--events", "1000", "--port", str(port), "--json"), capture_output=True, text=True
        )
        assert json.loads(sent.stdout)["accepted"] == 1000, sent.stderr

        before = _pid(tmp_path, "learn")
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: _pid(tmp_path, "learn") not in (0, before), "learn is started again")

        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10.0) as client:
            offset = int(json.loads(sent.stdout)["offsets"]["events-0"])
            wait_until(
                lambda: sum(client.get("/v1/model").json()["learned_offsets"].values()) >= offset, "all is learned"
            )
            reply = client.post("/v1/recommendations", json={"user_id": "u1", "n": 10}).json()
            assert len(reply["items"]) == 10
            lines = (  # of three processes, one of which was killed, at one endpoint
                'runnel_process_starts_total{process="learn-0"} 2.0',
                'runnel_process_starts_total{process="fold-0"} 1.0',
                'runnel_stage_up{stage="learn"} 1.0',
                "runnel_events_learned_total",
                'runnel_requests_total{route="POST /v1/recommendations",status="200"} 1.0',
            )

            def is_told() -> bool:  # a learner that just starts has its slot a moment after its pid file
                told = client.get("/metrics").text
                return all(line in told for line in lines)

            wait_until(is_told, "the metrics tell of all processes")

        status = subprocess.run(
            _runnel("status", "--home", str(tmp_path), "--json"), capture_output=True, text=True, check=True
        )
        state = json.loads(status.stdout)
        assert state["ready"] is True
        assert state["events_total"] == 1000
        assert set(state["processes"]) == {"fold", "learn", "serve"}
        assert state["stages"]["learn"]["state"] == "running"
        assert state["stages"]["learn"]["starts"] == 2
        assert list(state["replicas"]) == ["serve-0"]
        logs = "".join(path.read_text() for path in (tmp_path / "run").glob("*.log"))
        assert "learn starts" in logs
        assert not re.search(r"\bu1\b", logs)  # a user
        assert any("raylet" in each.name() for each in marked(instance))  # Ray's processes carry the mark

        process.send_signal(signal.SIGINT)
        summary, _ = _finish(process)
        assert summary["events"] == 1000
        assert int(str(summary["versions"])) >= 1
        assert summary["restarts"] == {"fold": 0, "learn": 1, "serve": 0}
        assert marked(instance) == []
        assert not list((tmp_path / "run").glob("*.pid"))


def test_after_kill_9_the_next_up_ends_the_orphans_ray_s_too_and_stops_by_itself_in_time(tmp_path: Path) -> None:
    port = _free_port()
    with _up(tmp_path, port) as process:
        _wait_until_ready(process, port)
        instance, serve = _instance(tmp_path), _pid(tmp_path, "serve")
        orphans = [each.pid for each in marked(instance) if each.pid != serve]
        # Stopped, they cannot end themselves when their parents die, as after a kill of everything but them.
        for pid in orphans:
            os.kill(pid, signal.SIGSTOP)
        os.kill(serve, signal.SIGKILL)
        process.kill()
        process.wait()
    left = [pid for pid in orphans if is_alive(pid)]
    assert left  # or this test shows nothing
    with _up(tmp_path, port, "--for", "1s") as process:
        summary, error = _finish(process)
    assert "left behind" in " ".join(error.split())  # however long the path is before which the line breaks
    assert not [pid for pid in left if is_alive(pid)]
    assert summary["events"] == 0
    listening = [each.laddr.port for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    assert port not in listening
