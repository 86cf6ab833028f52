# docs/kafka.md, step by step: the commands of its page as processes of their own, each killed and started again.
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import msgspec
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands.api import reaches
from serving.ports import free_ports
from serving.schemas import ModelReply
from tests.brokers import Cluster
from tests.stream.waiting import wait_until

ROOT = Path(__file__).parents[2]
START = 1_506_826_800_000


def steps() -> dict[str, list[str]]:
    """The page's commands in their order, by their names."""
    page = (ROOT / "docs" / "kafka.md").read_text()
    section = page[page.index("## One process each") :].partition("\n## ")[0]
    (block,) = re.findall(r"(?:^ {4}runnel .*# .*\n)+", section, re.MULTILINE)
    lines = [line.partition("#")[0].split()[1:] for line in block.splitlines()]
    return {words[0]: words for words in lines}


class Walk:
    """The page's processes, on topics of one test."""

    def __init__(self, broker: Cluster, folder: Path) -> None:
        config = broker.config(num_partitions=2)
        self.port, self.servers, self.folder = free_ports(1)[0], broker.servers, folder
        topics = {f"RUNNEL_KAFKA__TOPICS__{name.upper()}": topic for name, topic in vars(config.topics).items()}
        self.env = os.environ | topics | {"RUNNEL_DATA": str(folder / "clicks.parquet"), "RUNNEL_KAFKA__GROUP": "steps"}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def command(self, words: Sequence[str], *more: str) -> list[str]:
        """One line of the page."""
        told = [word.replace("HOST:PORT", self.servers) for word in words]
        return [sys.executable, str(ROOT / "runnel.py"), *told, *more]

    def start(self, name: str) -> None:
        """Begin one of the processes that go on."""
        more = ["--port", str(self.port)] if name == "serve" else []
        with (self.folder / f"{name}.log").open("ab") as log:
            command = self.command(steps()[name], *more)
            self._running[name] = subprocess.Popen(command, env=self.env, cwd=self.folder, stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        """SIGKILL to one of them alone; what hangs on it ends with it."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def kill_shipper(self, name: str) -> None:
        """SIGKILL to the shipper beside a stage, which starts it again."""
        (shipper,) = (each for each in psutil.Process(self._running[name].pid).children() if "ship" in each.cmdline())
        shipper.kill()

    def end(self) -> None:
        """Stop those that run, in good order."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        assert [process.wait(60) for process in self._running.values()] == [0] * len(self._running)

    def abort(self) -> None:
        """After a failure: leave nothing behind."""
        for process in self._running.values():
            process.kill()
            process.wait()

    def post(self, users: Sequence[str], at: int) -> dict[str, int]:
        """A click of each user; the offsets that have it, once it is taken."""
        events = [
            {"event_id": f"{user}-{at}", "type": "click", "user_id": user, "item_id": f"{at % 7}", "timestamp": at}
            for user in users
        ]
        reply = httpx.post(f"{self.url}/v1/events", json={"events": events}, timeout=60)
        assert reply.status_code == 202, reply.text
        offsets: dict[str, int] = reply.json()["offsets"]
        return offsets

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def model(self) -> ModelReply | None:
        """What the service knows, None while it does not answer."""
        with suppress(httpx.TransportError):
            reply = httpx.get(f"{self.url}/v1/model", timeout=10)
            if reply.is_success:
                return msgspec.json.decode(reply.content, type=ModelReply)
        return None

    def is_learned(self, offsets: dict[str, int]) -> bool:
        """Whether lists have learned of these."""
        model = self.model()
        return model is not None and reaches(model.learned_offsets, offsets)

    def num_folded(self) -> int:
        """Events that the node knows of."""
        model = self.model()
        return 0 if model is None else model.events_total


@pytest.fixture
def walk(broker: Cluster, tmp_path: Path) -> Iterator[Walk]:
    walk = Walk(broker, tmp_path)
    yield walk
    walk.abort()


def write_clicks(path: Path, num_clicks: int) -> None:
    columns = {
        "user_id": [k % 20 for k in range(num_clicks)],
        "session_id": [k % 20 for k in range(num_clicks)],
        "session_size": [2] * num_clicks,
        "click_article_id": [k % 7 for k in range(num_clicks)],
        "click_timestamp": [START + 1000 * k for k in range(num_clicks)],
    }
    for name in ("environment", "deviceGroup", "os", "country", "region", "referrer_type"):
        columns[f"click_{name}"] = [1] * num_clicks
    pq.write_table(pa.table(columns), path)


def learned(walk: Walk, offsets: dict[str, int]) -> None:
    wait_until(lambda: walk.is_learned(offsets), 120)


@pytest.mark.timeout(400)
def test_the_pages_steps_work_and_every_process_may_be_killed(walk: Walk) -> None:
    assert list(steps()) == ["topics", "replay", "fold", "learn", "follow", "serve"]
    write_clicks(walk.folder / "clicks.parquet", 400)
    for name in ("topics", "replay"):
        subprocess.run(walk.command(steps()[name]), env=walk.env, cwd=walk.folder, check=True, timeout=120)
    for name in ("fold", "learn", "follow", "serve"):
        walk.start(name)
    wait_until(lambda: walk.num_folded() == 400, 120)
    at, users = START + 10_000_000, [f"{k}" for k in range(20)]
    for name in ("fold", "learn", "follow"):
        learned(walk, walk.post(users, at))
        walk.kill(name)
        offsets = walk.post(users, at + 1000)
        walk.start(name)
        learned(walk, offsets)
        at += 2000
    for name in ("fold", "learn"):
        walk.kill_shipper(name)
        learned(walk, walk.post(users, at))
        at += 1000
    reply = httpx.post(f"{walk.url}/v1/recommendations", json={"user_id": "3", "n": 3}, timeout=60).json()
    assert len(reply["items"]) == 3
    assert reaches(reply["session_offsets"], offsets)
    assert walk.num_folded() == 400 + 20 * 8
    assert len(httpx.get(f"{walk.url}/v1/users/3").json()["sequence"]) == 400 // 20 + 8
    walk.end()
    told = [json.loads(line) for line in (walk.folder / "follow.log").read_text().splitlines()]
    assert "error" not in {line["level"] for line in told if not line["logger"].startswith("kafka.")}  # of ours
