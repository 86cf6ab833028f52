# Kill -9 of everything under HTTP load, and what must hold after it; caches deleted under a running system.
from __future__ import annotations

import shutil
import socket
from pathlib import Path
from time import sleep

import httpx
import numpy as np
import pytest

from state.meta import get_version
from state.store import Store
from stream.log import PARTITION, EventLog, LogSource
from tests.commands.whole_system import (
    HttpLoad,
    answers,
    comparable,
    dumps,
    event_ids,
    is_quiet,
    kill_everything,
    kill_replicas,
    uninterrupted,
    up,
)
from tests.serving.helpers import wait_until
from tests.stream.waiting import stored_offsets

NUM_KILLS = 2
NUM_REPLICA_KILLS = 2  # before each of them; benchmarks/chaos.py has more
USERS = [f"u{number}" for number in range(5)]

pytestmark = pytest.mark.timeout(500)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def recommend(home: Path, port: int, user: str) -> dict[str, object]:
    """A list from the running system, once its slate is in the log: with it stands all that was served before."""
    log = EventLog(home / "log")
    try:
        before = log.end_offset()
        url = f"http://127.0.0.1:{port}/v1/recommendations"
        reply = httpx.post(url, json={"user_id": user, "n": 10}, timeout=10.0).raise_for_status().json()
        request_id = reply["request_id"].encode()
        is_logged = lambda: any(request_id in message.value for message in log.read(before, 10_000))  # noqa: E731
        wait_until(is_logged, "the slate is in the log")
    finally:
        log.close()
    return comparable(reply)


def wait_until_settled(home: Path, port: int) -> None:
    """Wait until the log's last value is learned and answers."""
    log = EventLog(home / "log")
    wait_until(lambda: stored_offsets(home / "learn", "learn").get(PARTITION) == log.end_offset(), "all is learned")
    log.close()
    wait_until(lambda: is_quiet(port), "the newest version answers")


def model_version(home: Path) -> int:
    """The newest version that is committed."""
    with Store(home / "learn") as store, store.read() as txn:
        return get_version(txn, store, "learn")


def delete_caches(home: Path) -> list[str]:
    """Delete all of a home but its log and its stores; what went."""
    caches = [path for path in home.iterdir() if path.name not in ("log", "fold", "learn")]
    for path in caches:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return [path.name for path in caches]


def test_after_kill_9_of_everything_under_load_nothing_is_lost_or_twice_and_lists_are_the_same(tmp_path: Path) -> None:
    home, port, rng = tmp_path / "home", free_port(), np.random.default_rng(11)
    load = HttpLoad(port, seed=11)
    versions = [0]
    for _ in range(NUM_KILLS):
        with up(home, port) as process:
            model = httpx.get(f"http://127.0.0.1:{port}/v1/model", timeout=5.0).json()
            assert model["model_version"] >= versions[-1]
            replicas = 0
            while replicas < NUM_REPLICA_KILLS:
                sleep(rng.uniform(0.2, 3.0))  # the instant, not a wait: also while a replica starts
                replicas += kill_replicas(home)
            sleep(rng.uniform(1.0, 6.0))
            versions.append(model_version(home))
            assert kill_everything(home, process) > 5
    assert versions[-1] > versions[1] > 0
    with up(home, port) as process:
        load.stop()
        recommend(home, port, USERS[0])
        wait_until_settled(home, port)
        expected = answers(home, USERS)
        kill_everything(home, process)
    with up(home, port):
        wait_until_settled(home, port)
        assert recommend(home, port, USERS[0]) == expected[USERS[0]]
        wait_until_settled(home, port)
        expected = answers(home, USERS)  # the answer was an event: the next one stands at another offset
        assert delete_caches(home) == ["run"]
        assert recommend(home, port, USERS[1]) == expected[USERS[1]]
        wait_until_settled(home, port)

    log = EventLog(home / "log")
    logged = event_ids(log)
    assert len(logged) == len(set(logged)) > 100
    assert load.acknowledged <= set(logged)
    found, reference = dumps(home), uninterrupted(LogSource(log), tmp_path / "uninterrupted")
    log.close()
    for store, parts in reference.items():
        for part, content in parts.items():
            assert found[store][part] == content, f"{store}: {part}"
