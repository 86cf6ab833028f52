# What an operator does to a running system: snapshot, rollback, compact, dead letters; it answers all the while.
from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import httpx
import pytest

from state.dump import dump_serving
from state.meta import get_version
from state.store import Store
from stream.log import PARTITION, EventLog
from tests.commands.test_whole_system import free_port
from tests.commands.whole_system import ROOT, up
from tests.serving.helpers import wait_until
from tests.stream.waiting import stored_offsets

pytestmark = pytest.mark.timeout(300)


def runnel(*arguments: str) -> str:
    """A command of a person, which must succeed; what it printed."""
    command = [sys.executable, str(ROOT / "runnel.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Visitor:
    """Asks for lists one after the other, in a thread; what it was answered."""

    def __init__(self, url: str) -> None:
        self.refused: list[str] = []
        self.versions: list[int] = []
        self._url, self._stop = url, Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=20.0) as client:
            while not self._stop.is_set():
                reply = client.post("/v1/recommendations", json={"user_id": "u1", "n": 5})
                if reply.is_success and len(reply.json()["items"]) == 5:
                    self.versions.append(reply.json()["model_version"])
                else:
                    self.refused.append(reply.text)
                self._stop.wait(0.005)


def send(url: str, home: Path, num_events: int) -> None:
    """Views of a few users, and wait until they are learned."""
    now = int(time.time() * 1000)
    events = [
        {"type": "view", "user_id": f"u{n % 5}", "item_id": f"i{n * 7 % 31}", "timestamp": now - 1000 + n}
        for n in range(num_events)
    ]
    offset = httpx.post(f"{url}/v1/events", json={"events": events}, timeout=20.0).raise_for_status().json()["offset"]
    is_learned = lambda: stored_offsets(home / "learn", "learn").get(PARTITION, 0) >= offset  # noqa: E731
    wait_until(is_learned, "all is learned", 60.0)


def served(path: Path) -> list[tuple[str, str, bytes]]:
    """The transformer's weights in a learn store."""
    with Store(path) as store, store.read() as txn:
        return [line for line in dump_serving(txn, store) if line[0] == "dense:transformer"]


def version(home: Path) -> int:
    with Store(home / "learn") as store, store.read() as txn:
        return get_version(txn, store, "learn")


def test_a_running_system_is_copied_rolled_back_and_compacted_and_answers_all_the_while(tmp_path: Path) -> None:
    port, home = free_port(), tmp_path / "home"
    url, of_home = f"http://127.0.0.1:{port}", ("--home", str(tmp_path / "home"))
    with up(home, port):
        send(url, home, 300)
        log = EventLog(home / "log")
        log.append([b"no json", b'{"type": "vieuw"}'], int(time.time() * 1000))
        log.close()
        visitor = Visitor(url)
        kept = json.loads(runnel("snapshot", *of_home, "--json").splitlines()[-1])
        send(url, home, 300)
        assert served(home / "learn") != served(Path(kept["learn"]["path"]))
        before, kept_version = version(home), kept["learn"]["version"]
        assert f"has the weights of version {kept_version}: " in runnel("rollback", "--to", str(kept_version), *of_home)
        assert version(home) > before
        assert served(home / "learn") == served(Path(kept["learn"]["path"]))  # nothing came to be learned since
        runnel("compact", *of_home)
        send(url, home, 100)  # all three go on in their new files
        newest = version(home)
        wait_until(lambda: visitor.versions[-1:] >= [newest], "the newest version answers", 60.0)
        visitor.stop()
        letters = json.loads(runnel("dead-letters", *of_home, "--json"))["dead_letters"]
    assert visitor.refused == []
    assert visitor.versions == sorted(visitor.versions)
    assert [letter["field"] for letter in letters] == ["type", ""]
    assert [path.parent.name for path in sorted(home.rglob("data.mdb")) if "snapshots" not in path.parts] == [
        "generation-1"
    ] * 3
