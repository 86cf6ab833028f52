# Logs: one JSON object a line, repeats counted, no user ids; what ends a process or a thread is told.
from __future__ import annotations

import json
import logging
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from serving.logs import JsonLines, Repeats
from serving.service import Service
from tests.serving.helpers import item, open_loop, view

SECRET = "user-4711"


def record(text: str, at: float, *args: object, level: int = logging.WARNING, **fields: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "runnel", "msg": text, "args": args, "levelno": level, "created": at, **fields}
    )
    made.levelname = logging.getLevelName(level)
    return made


def test_a_line_is_one_json_object_with_the_fields_that_were_named() -> None:
    line = JsonLines("fold").format(record("stands\nat %d", 1.5, 7, version=3, offsets={"events-0": 9}))
    assert "\n" not in line
    assert json.loads(line) == {
        "at": "1970-01-01T00:00:01.500+00:00",
        "level": "warning",
        "process": "fold",
        "logger": "runnel",
        "message": "stands\nat 7",
        "version": 3,
        "offsets": {"events-0": 9},
    }


def test_an_error_is_told_with_its_traceback_in_the_same_line() -> None:
    try:
        raise ValueError("no such thing")
    except ValueError:
        line = json.loads(JsonLines("learn").format(record("failed", 0.0, exc_info=sys.exc_info())))
    assert line["error"].startswith("Traceback")
    assert line["error"].endswith("ValueError: no such thing")


def test_a_repeated_message_is_counted_and_told_again_after_a_while() -> None:
    repeats = Repeats(interval_seconds=10.0)
    told = [repeats.filter(record("slow: %d", at, at)) for at in range(10)]
    assert told == [True] + [False] * 9
    assert repeats.filter(record("another", 9.0))
    assert repeats.filter(record("slow: %d", 9.0, 1, level=logging.ERROR))
    later = record("slow: %d", 10.0, 10)
    assert repeats.filter(later)
    assert json.loads(JsonLines("fold").format(later))["repeated"] == 9


def test_more_kinds_of_messages_than_are_remembered_are_all_told() -> None:
    repeats = Repeats(max_messages=2)
    assert all(repeats.filter(record(f"message {number}", 0.0)) for number in range(10))


def test_no_log_line_names_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = StringIO()
    handler = logging.StreamHandler(told)
    handler.setFormatter(JsonLines("test"))
    handler.addFilter(lambda record: not record.name.startswith("httpx"))  # the client's
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with open_loop(tmp_path) as loop:
            loop.send(view(SECRET, "a"), view(SECRET, "a"), view(SECRET, "b", dwell_ms=-1), {"user_id": SECRET})
            loop.client.request("PUT", "/v1/items", json={"items": [item("a")]})
            loop.settle()
            loop.client.recommend(SECRET)
            loop.client.get(f"/v1/users/{SECRET}")
            monkeypatch.setattr(Service, "user", fail)
            assert loop.client.get(f"/v1/users/{SECRET}").status_code == 500
            counted = 'runnel_requests_total{route="GET /v1/users/{user_id:path}",status="500"} 1.0'
            assert counted in loop.client.get("/metrics").text
            loop.client.request("DELETE", f"/v1/users/{SECRET}")
            loop.settle()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert "/v1/users/{user_id:path} failed" in told.getvalue()
    assert SECRET not in told.getvalue()


def fail(*_: object) -> None:
    raise RuntimeError("broken on purpose")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("raise RuntimeError('no more')", "ended by RuntimeError: no more"),
        (
            "import threading\n"
            "def fail(): raise RuntimeError('no more')\n"
            "threading.Thread(target=fail, name='writer').start()\n"
            "stop.wait()",
            "the thread writer has ended by an error",
        ),
    ],
    ids=["main", "thread"],
)
def test_a_stage_whose_step_or_thread_fails_ends_at_once_and_says_why(script: str, message: str) -> None:
    code = f"from commands.child import begin\nstop = begin('fold', 0)\n{script}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    line = json.loads(ended.stderr.strip().splitlines()[-1])
    assert (line["level"], line["process"], line["message"]) == ("critical", "fold", message)
    assert line["error"].endswith("RuntimeError: no more")
