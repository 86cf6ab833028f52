# Ray Serve for real: two homes side by side, on loopback but for the API, and what happens when processes are killed.
from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from serving.admission import AdmissionConfig
from serving.claim import HomeInUse, ServiceClaim, end_orphans
from serving.cluster import ClusterConfig, ServingCluster
from serving.keys import ALL_RIGHTS, ApiKey, KeysMissing, hash_key
from serving.ports import PortInUse, free_ports, require_free
from serving.ray_environment import runtime_folder
from serving.service import ServiceConfig
from state.store import Store
from stream.fold import FoldStage
from stream.log import EventLog, LogSource
from tests.serving.helpers import JsonEvent, problem, wait_until

ROOT = Path(__file__).parents[2]
START_SECONDS, MAX_STARTS = 80.0, 3
OUTER_KEY = "the key of the home that is open to others"
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@dataclass
class Served:
    """A home that a process serves, and its fold stage in this one."""

    home: Path
    port: int
    command: list[str]
    client: httpx.Client
    fold: FoldStage
    process: subprocess.Popen[bytes] = field(init=False)
    num_starts: int = 0

    def begin(self) -> None:
        """Start the process."""
        self.num_starts += 1
        with (self.home / "output.txt").open("wb") as file:
            self.process = subprocess.Popen(self.command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)

    def has_begun(self) -> bool:
        """Whether it is ready for the first time. A start that fails is tried again, as `runnel up` does: Ray takes
        ports that are free, and binds them later."""
        if self.process.poll() is not None and self.num_starts < MAX_STARTS:
            self.begin()
        return self.is_ready()

    def tree(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def replica(self) -> psutil.Process:
        """The replica's process."""
        found = [process for process in self.tree() if "ServeReplica" in _command(process)]
        assert len(found) == 1
        return found[0]

    def addresses(self) -> set[tuple[str, int]]:
        """Where the tree takes connections or datagrams."""
        return {address for process in self.tree() for address in _addresses(process)}

    def is_ready(self) -> bool:
        """Whether the API is up and a version is loaded."""
        assert self.process.poll() is None, (self.home / "output.txt").read_text()
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def send(self, event_id: str, item: str) -> None:
        """Send one event and fold it."""
        assert self.client.post("/v1/events", json=event(event_id, item)).json()["accepted"] == 1
        self.fold.step(1.0)

    def sequence(self) -> set[str]:
        """The items of the test user's sequence."""
        response = self.client.get("/v1/users/u1")
        return {entry["item_id"] for entry in response.json()["sequence"]} if response.status_code == 200 else set()


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # or a zombie, which has no command line either
        return ""


def _addresses(process: psutil.Process) -> set[tuple[str, int]]:
    try:
        sockets = process.net_connections("inet")
    except psutil.NoSuchProcess:
        return set()
    return {(each.laddr.ip, each.laddr.port) for each in sockets if each.status in ("LISTEN", "NONE")}


def event(event_id: str, item: str) -> JsonEvent:
    return {"type": "view", "event_id": event_id, "user_id": "u1", "item_id": item, "timestamp": 1_763_649_000_000}


def start(home: Path, host: str, stack: ExitStack, secret: str = "") -> Served:
    port = free_ports(1)[0]
    log = EventLog(home / "log")
    stack.callback(log.close)
    fold = FoldStage(stack.enter_context(Store(home / "fold", "fold", writer=True)), LogSource(log))
    stack.enter_context(Store(home / "learn", "learn", writer=True))
    keys = ApiKey("test", ALL_RIGHTS, hash_key(secret)).line() if secret else ""
    command = [sys.executable, "-m", "tests.serving.run_service", str(home), host, str(port), keys]
    headers = {"X-API-Key": secret} if secret else {}
    client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30))
    served = Served(home, port, command, client, fold)
    served.begin()
    stack.callback(stop, served)
    return served


def stop(served: Served) -> None:
    served.process.kill()
    served.process.wait()
    end_orphans(runtime_folder(served.home))
    shutil.rmtree(runtime_folder(served.home), ignore_errors=True)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Served]]:
    """Two homes started at once: one for this machine alone, one open to others."""
    with ExitStack() as stack:
        inner = start(tmp_path_factory.mktemp("inner"), "127.0.0.1", stack)
        outer = start(tmp_path_factory.mktemp("outer"), "0.0.0.0", stack, OUTER_KEY)
        for served in (inner, outer):
            wait_until(served.has_begun, f"{served.home} is ready", START_SECONDS)
        yield inner, outer


def test_two_homes_side_by_side_know_nothing_of_each_other(both: tuple[Served, Served]) -> None:
    inner, outer = both
    inner.send("e-1", "only-inside")
    outer.send("e-1", "only-outside")
    wait_until(lambda: inner.sequence() == {"only-inside"}, "the inner home has its event")
    wait_until(lambda: outer.sequence() == {"only-outside"}, "the outer home has its event")
    assert (
        inner.client.post("/v1/events", json=event("e-1", "only-inside")).json()["results"][0]["status"] == "duplicate"
    )


def test_nothing_listens_beyond_loopback_but_the_api_s_host(both: tuple[Served, Served]) -> None:
    for served, host in zip(both, ("127.0.0.1", "0.0.0.0"), strict=True):
        api = (host, served.port)
        # HAProxy replaces itself when it learns of a replica: for a moment the tree may hold the old one alone
        wait_until(lambda served=served, api=api: api in served.addresses(), f"{api} listens")  # type: ignore[misc]
        beyond = {address for address in served.addresses() if address[0] not in LOOPBACK}
        assert beyond == (set() if host == "127.0.0.1" else {api})


def test_a_replica_has_the_priority_of_who_started_it(both: tuple[Served, Served]) -> None:
    assert both[0].replica().nice() == psutil.Process().nice()


def test_a_home_open_to_others_asks_for_its_key(both: tuple[Served, Served]) -> None:
    url = f"http://127.0.0.1:{both[1].port}"
    with httpx.Client(base_url=url, timeout=30) as stranger:
        assert problem(stranger.post("/v1/events", json=event("e-9", "x")))["status"] == 401
        assert problem(stranger.get("/metrics"))["status"] == 401
        assert stranger.get("/readyz").status_code == 200
    assert both[1].client.get("/metrics").status_code == 200
    for process in both[1].tree():
        assert OUTER_KEY not in _command(process)


def test_without_keys_the_service_opens_to_no_other_machine(tmp_path: Path) -> None:
    cluster, service = ClusterConfig(tmp_path, "0.0.0.0"), ServiceConfig(tmp_path)
    with pytest.raises(KeysMissing, match="runnel keys"):
        ServingCluster(cluster, service)


def test_headers_that_ray_would_read_do_no_harm(both: tuple[Served, Served]) -> None:
    for name in ("x-request-id", "x-session-id", "x-request-timeout-seconds", "x-request-disconnect-disabled"):
        assert both[0].client.get("/v1/model", headers=[(name.encode(), b"\xff\xfe")]).status_code == 200
        assert both[0].client.get("/v1/model", headers={name: "0.000001"}).status_code == 200


def test_the_proxy_sheds_slates_beyond_the_bound_and_takes_them_again_afterwards(both: tuple[Served, Served]) -> None:
    served = both[0]
    head = b"POST /v1/recommendations HTTP/1.1\r\nHost: test\r\nContent-Length: 16\r\n\r\n"
    with ExitStack() as stack:
        calls = [stack.enter_context(socket.create_connection(("127.0.0.1", served.port), 30)) for _ in range(40)]
        for call in calls:
            call.sendall(head)  # the body is not sent yet: the call stays in flight
        refused, _, _ = select.select(calls, [], [], 30)
        assert refused
        answer = refused[0].recv(4096)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 1" in answer.lower()
        assert b"application/problem+json" in answer
        served.send("e-7", "during-the-flood")  # other calls have a bound of their own
        others = [call for call in calls if call is not refused[0]]
        too_many = len(others) - AdmissionConfig().max_slates
        wait_until(lambda: len(select.select(others, [], [], 0)[0]) == too_many, "the bounded number waits")
        told = served.client.get("/metrics").text
        assert re.search(r'runnel_proxy_shed_total{kind="slates"} [1-9]', told)
        for call in calls:
            with suppress(OSError):  # the refused ones are closed
                call.sendall(b'{"user_id": "u"}')
    wait_until(
        lambda: served.client.post("/v1/recommendations", json={"user_id": "u"}).status_code == 200, "room again"
    )


def test_the_proxy_passes_problem_documents_through(both: tuple[Served, Served]) -> None:
    assert problem(both[0].client.post("/v1/recommendations", content=b"{}"))["field"] == "user_id"
    assert problem(both[0].client.get("/nowhere"))["status"] == 404


BAD_HEADS = {
    "no HTTP": b"\x16\x03\x01 hello\r\n\r\n",
    "a head that never ends": b"GET / HTTP/1.1\r\nHost: test\r\nX-Long: " + b"a" * 70_000 + b"\r\n\r\n",
    "two lengths": b"POST /v1/events HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a coding nobody knows": b"POST /v1/events HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: br\r\n\r\n",
    "a NUL in a header": b"GET /v1/model HTTP/1.1\r\nHost: test\r\nX-Nul: a\0b\r\n\r\n",
    "a space in the path": b"GET /v1/items/a b HTTP/1.1\r\nHost: test\r\n\r\n",
}


@pytest.mark.parametrize("head", BAD_HEADS.values(), ids=BAD_HEADS)
def test_what_is_no_request_is_refused_by_the_proxy_and_harms_nobody(both: tuple[Served, Served], head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", both[0].port), 30) as call:
        call.sendall(head)
        assert call.recv(4096).startswith(b"HTTP/1.1 4")  # in HAProxy's own words, which no setting reaches
    assert both[0].is_ready()


def test_a_taken_port_is_named_with_the_setting(both: tuple[Served, Served]) -> None:
    with pytest.raises(PortInUse, match=rf"port {both[0].port} on 127.0.0.1.*--port"):
        require_free("127.0.0.1", both[0].port)


def test_a_second_service_of_a_home_is_refused_and_disturbs_nothing(both: tuple[Served, Served]) -> None:
    with pytest.raises(HomeInUse, match=f"served by process {both[0].process.pid}"):
        ServiceClaim(both[0].home)
    assert both[0].is_ready()


def test_a_killed_replica_comes_back_with_every_acknowledged_event(both: tuple[Served, Served]) -> None:
    served = both[0]
    served.send("e-2", "before-the-kill")
    killed = served.replica()
    killed.kill()
    answers: list[httpx.Response] = []

    def is_back() -> bool:
        try:
            answers.append(served.client.get("/readyz"))
        except httpx.TransportError:  # the request that was in the replica's hands
            return False
        return answers[-1].status_code == 200

    wait_until(is_back, "the replica is back", START_SECONDS)
    assert served.replica().pid != killed.pid
    wait_until(lambda: "before-the-kill" in served.sequence(), "the event is there")
    for answer in answers[:-1]:
        assert problem(answer)["status"] == 503
        assert answer.headers["retry-after"] == "1"


def test_sigterm_ends_every_process_and_frees_the_port(both: tuple[Served, Served]) -> None:
    served = both[0]
    tree = served.tree()
    os.kill(served.process.pid, signal.SIGTERM)
    assert served.process.wait(timeout=60) == 0
    _, alive = psutil.wait_procs(tree, timeout=20)
    assert alive == []
    require_free("127.0.0.1", served.port)
    assert not runtime_folder(served.home).exists()
    assert (served.home / "output.txt").read_text() == ""


def test_what_a_killed_service_leaves_behind_is_ended_by_the_next(both: tuple[Served, Served]) -> None:
    served = both[1]
    tree = served.tree()
    served.process.kill()
    served.process.wait()
    end_orphans(runtime_folder(served.home))  # what starting does first
    _, alive = psutil.wait_procs(tree, timeout=20)
    assert alive == []
    require_free("0.0.0.0", served.port)
