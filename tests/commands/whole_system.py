# The whole system as a person starts it, for tests: up, load over HTTP, SIGKILL of every process, down.
from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import httpx
import numpy as np
import psutil

from commands.processes import marked, read_note
from models.registry import MODELS, build_models
from serving.service import Service, ServiceConfig
from state.dump import dump
from state.follower import StoreSource
from state.signals import SignalTable
from state.store import Store
from state.view import View
from stream.fold import FoldStage
from stream.learn import LearnStage
from stream.log import EventLog
from stream.run import FOLD_NAME
from stream.sink import Value
from stream.source import EventSource
from tests.serving.helpers import Client, wait_until

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 120.0


@contextmanager
def up(home: Path, port: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`runnel up`, ready; what still runs in the end is told to stop."""
    command = [sys.executable, str(ROOT / "runnel.py"), "up", "--home", str(home), "--port", str(port), *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_ready(process, port)
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def kill_everything(home: Path, process: subprocess.Popen[bytes]) -> int:
    """SIGKILL to the supervisor, the stages, the replicas, the proxy and all of Ray; how many there were."""
    note = read_note(home / "run" / "up.lock")
    assert note is not None
    num_killed, tree = 0, [*marked(note.instance), psutil.Process(process.pid)]
    while tree:  # until nothing is left that they started meanwhile
        for each in tree:
            with suppress(psutil.NoSuchProcess):  # Ray's helpers come and go
                each.kill()
        psutil.wait_procs(tree, timeout=10)
        num_killed, tree = num_killed + len(tree), marked(note.instance)
    process.wait()
    return num_killed


def kill_replicas(home: Path) -> int:
    """SIGKILL to the replicas alone, which Ray Serve starts again; how many there were."""
    note = read_note(home / "run" / "up.lock")
    assert note is not None
    killed = 0
    for each in marked(note.instance):
        with suppress(psutil.NoSuchProcess):  # it ended by itself just now
            if any("ServeReplica" in part for part in each.cmdline()):
                each.kill()
                killed += 1
    return killed


class HttpLoad:
    """Posts views and skips, each event once, from a thread until told to stop; failures are part of the game."""

    def __init__(self, port: int, seed: int) -> None:
        self.acknowledged: set[str] = set()
        self._rng, self._url = np.random.default_rng(seed), f"http://127.0.0.1:{port}"
        self._stop, self._thread = Event(), Thread(target=self._run, daemon=True)  # a failed test does not wait
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait for the last answer."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=10.0) as client:
            while not self._stop.is_set():
                events = [self._event() for _ in range(int(self._rng.integers(1, 6)))]
                try:
                    reply = client.post("/v1/events", json={"events": events})
                    client.post("/v1/recommendations", json={"user_id": events[0]["user_id"], "n": 5})
                except httpx.TransportError:
                    self._stop.wait(0.05)
                    continue
                if reply.is_success:
                    results = reply.json()["results"]
                    self.acknowledged |= {each["event_id"] for each in results if each["status"] == "accepted"}

    def _event(self) -> dict[str, str | int]:
        kind = "view" if self._rng.random() < 0.7 else "skip"
        return {
            "event_id": uuid.uuid4().hex,
            "type": kind,
            "user_id": f"u{self._rng.integers(40)}",
            "item_id": f"i{int(self._rng.zipf(1.3)) % 300}",
            "timestamp": int(time.time() * 1000),
            "dwell_ms": 5000,
        }


class NoSink:
    """Stands in for the log where an answer must leave no trace; not a mock of anything under test."""

    is_keyed = False

    async def append(self, *values: Value) -> dict[str, int]:
        raise AssertionError(f"nothing is to be appended: {values!r}")

    def append_unsynced(self, value: Value) -> bool:
        return bool(value)

    def num_behind(self, folded: Mapping[str, int]) -> int:
        return len(folded) * 0

    is_alive = True

    def close(self) -> None:
        pass


def answers(home: Path, users: list[str], fold: str = "fold", learn: str = "learn") -> Mapping[str, dict[str, object]]:
    """What a service over the home's stores as they stand recommends; the slates are not logged."""
    view = View(home / fold, home / learn, lambda _: build_models(MODELS, 0))
    service = Service(ServiceConfig(home), view, NoSink(), lambda: int(time.time() * 1000), SignalTable())
    client = Client(service)
    try:
        wait_until(lambda: client.get("/readyz").status_code == 200, "the service has loaded a version")
        return {user: comparable(client.recommend(user, n=10)) for user in users}
    finally:
        client.close()
        service.close()
        view.close()


def comparable(reply: dict[str, object]) -> dict[str, object]:
    """A reply without what names the request or tells the time."""
    return {key: value for key, value in reply.items() if key not in ("request_id", "model_age_ms")}


def dumps(home: Path) -> dict[str, dict[str, bytes]]:
    """The canonical content of both stores, which LMDB finds sound."""
    found = {}
    for name in ("fold", "learn"):
        with Store(home / name) as store:
            assert store.verify() == []
            found[name] = dump(store)
    return found


def uninterrupted(source: EventSource, base: Path) -> dict[str, dict[str, bytes]]:
    """The same of stages that read a log from its beginning in one go."""
    with Store(base / "fold", "fold", writer=True) as folded, Store(base / "learn", "learn", writer=True) as learned:
        fold, ends = FoldStage(folded, source), source.end_offsets()
        learn = LearnStage(learned, {FOLD_NAME: StoreSource(folded)}, build_models(["blend"]), np.random.default_rng(0))
        wait_until(lambda: fold.step().num_messages == 0 and fold.offsets == ends, "all is folded", 120)
        while learn.step(0).num_deltas:
            pass
        return {"fold": dump(folded), "learn": dump(learned)}


def event_ids(log: EventLog) -> list[str]:
    """Every event_id in the log, in order; slates, which servers write, have none."""
    values = [json.loads(message.value) for message in log.read(0, log.end_offset())]
    events = [event for value in values for event in (value if isinstance(value, list) else [value])]
    return [event["event_id"] for event in events if event["type"] != "slate"]


def is_quiet(port: int) -> bool:
    """Whether all that the log holds has been folded and learned by the version that answers."""
    model = httpx.get(f"http://127.0.0.1:{port}/v1/model", timeout=5.0).json()
    return bool(model["folded_offsets"] == model["learned_offsets"] != {})


def wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the API answers with a version; AssertionError where the process ends before."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"runnel up ended with {process.returncode}"
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5.0).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"not ready within {READY_SECONDS:.0f} s")
