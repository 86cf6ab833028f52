# `runnel up --kafka local`: a real Kafka beside the system, one command, stopped with the rest.
from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
import pytest

from commands.api import reaches
from commands.processes import marked, read_note
from commands.system import LOCAL
from serving.ports import free_ports
from tests.commands.whole_system import up
from tests.stream.waiting import wait_until

NOW = 1_763_649_000_000


def folded(port: int) -> dict[str, int]:
    found: dict[str, int] = httpx.get(f"http://127.0.0.1:{port}/v1/model").json()["folded_offsets"]
    return found


@pytest.mark.timeout(600)
def test_events_go_through_kafka_into_lists_and_survive_a_kill_of_every_process(tmp_path: Path) -> None:
    port, home = free_ports(1)[0], tmp_path / "home"
    with up(home, port, "--kafka", LOCAL) as process:
        events = [
            {"type": "view", "user_id": f"u{k % 5}", "item_id": f"i{k % 11}", "timestamp": NOW + 1000 * k}
            for k in range(200)
        ]
        item = {"type": "item", "item_id": "i1", "timestamp": NOW, "title": "one"}
        reply = httpx.post(f"http://127.0.0.1:{port}/v1/events", json={"events": [*events, item]}, timeout=60)
        assert reply.status_code == 202
        assert reply.json()["accepted"] == 201
        offsets: dict[str, int] = reply.json()["offsets"]
        assert set(offsets) == {"runnel.events-0", "runnel.items-0"}
        wait_until(lambda: reaches(folded(port), offsets))
        slate = httpx.post(
            f"http://127.0.0.1:{port}/v1/recommendations", json={"user_id": "u1", "n": 3}, timeout=60
        ).json()
        assert len(slate["items"]) == 3
        assert reaches(slate["session_offsets"], offsets)
        note = read_note(home / "run" / "kafka.pid")
        assert note is not None
        broker = note.process()
        assert broker is not None
        broker.send_signal(signal.SIGKILL)
        wait_until(lambda: posts(port, [{**events[0], "event_id": "again", "user_id": "late"}]), 120)
        wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/v1/users/late").status_code == 200, 120)
        instance = read_note(home / "run" / "up.lock")
        assert instance is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_until(lambda: not marked(instance.instance), 60)
    with up(home, port, "--kafka", LOCAL) as process:
        user = httpx.get(f"http://127.0.0.1:{port}/v1/users/u1").json()
        assert len(user["sequence"]) == 40
        assert httpx.get(f"http://127.0.0.1:{port}/v1/items/i1").json()["title"] == "one"
        assert "kafka" in json.dumps(sorted(path.stem for path in (home / "run").glob("*.pid")))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not marked(instance.instance)


def posts(port: int, events: list[dict[str, object]]) -> bool:
    reply = httpx.post(f"http://127.0.0.1:{port}/v1/events", json={"events": events}, timeout=60)
    assert reply.status_code in (202, 503), reply.text
    return reply.status_code == 202
