# The whole system on one machine: claims the home, starts both stages and the service, tells when they are ready.
from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic

import httpx
import psutil

from commands.claim import Claim
from commands.errors import CommandError, told_plainly
from commands.kafka_local import Node, bootstrap, prepare_node
from commands.settings import Settings
from commands.supervisor import Supervisor
from serving.ports import PortInUse, free_ports, require_free
from state.store import StoreError
from stream.kafka_topics import make_topics
from stream.restore import require_whole, restore
from stream.source import SourceUnready

LOCAL = "local"  # instead of servers: a Kafka of our own
READY_PATIENCE = 120.0  # seconds; Ray takes about ten to start on two cores
_LOOK_EVERY = 0.2


def api_url(settings: Settings) -> str:
    """Where a program on this machine reaches the API."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


class System:
    """One home's processes. `watch` keeps them alive; `stop` leaves none behind."""

    def __init__(self, settings: Settings, learning: bool, say: Callable[[str], None]) -> None:
        """Claims the home and ends what a killed run of it left; CommandError where it is taken or the port is."""
        self._settings, self._kafka, self._say = settings, settings.kafka, say
        self._claim = Claim(settings.home)
        self.learning = learning
        if self._claim.ended:
            say(f"ended {len(self._claim.ended)} processes that an earlier run of {settings.home} left behind")
        try:
            require_port(settings.host, settings.port)
        except CommandError:
            self._claim.release()
            raise
        self._supervisor = Supervisor(self._claim.run_dir, self._claim.instance, say)

    def empty(self) -> None:
        """Forget everything that the home holds, before anything is started."""
        for part in ("log", "fold", "learn", "snapshots", "kafka"):
            shutil.rmtree(self._settings.home / part, ignore_errors=True)

    def restore(self, directory: Path) -> None:
        """Begin the home from the newest snapshots of a directory; CommandError where it has stores already."""
        with told_plainly(StoreError):
            versions = restore(directory, self._settings.home)
        self._say(f"restored {', '.join(f'{stage} version {version}' for stage, version in versions.items())}")

    async def start_kafka(self) -> None:
        """Where the settings ask for a Kafka of one node in the home, start it on free ports: it is what the others are
        told of."""
        if self._settings.kafka.servers != LOCAL:
            return
        self._say("Kafka starts (its jars are downloaded the first time) ...")
        node = Node(1, *free_ports(2))
        command = await asyncio.to_thread(prepare_node, self._settings.home.resolve() / "kafka", node, [node])
        tied = [sys.executable, "-m", "commands.exec_with", str(os.getpid()), *command]
        self._supervisor.start("kafka", tied, monotonic(), is_last=True)
        self._kafka = replace(self._kafka, servers=bootstrap([node]))

    def start(self) -> None:
        """Start the stages and the service; with learning off, the learn stage stays out."""
        settings = self._settings
        with told_plainly(StoreError):
            require_whole(settings.home)
        self._claim.publish(api_url(settings))
        home = ["--home", str(settings.home.resolve()), "--supervisor", str(os.getpid())]
        kafka = ["--deltas", "home", *(["--kafka", self._kafka.servers] if self._kafka.servers else [])]
        api = ["--host", settings.host, "--port", str(settings.port), *([] if self.learning else ["--freeze"])]
        self._start("fold", [*home, *kafka])
        if self.learning:
            self._start("learn", [*home, *kafka, "--seed", str(settings.seed)])
        self._start("serve", [*home, *kafka, *api])

    async def watch(self) -> None:
        """Restart what dies, until cancelled; CommandError where a child cannot run at all."""
        while True:
            self._supervisor.poll(monotonic())
            await asyncio.sleep(_LOOK_EVERY)

    async def wait_until_ready(self) -> None:
        """Return when the API takes requests (and has a model version, where it learns)."""
        path, deadline = "/readyz" if self.learning else "/healthz", monotonic() + READY_PATIENCE
        if self._kafka.servers:
            await self._make_topics(deadline)
        async with httpx.AsyncClient(base_url=api_url(self._settings), timeout=5.0) as client:
            while monotonic() < deadline:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(path)).status_code == httpx.codes.OK:
                        return
                await asyncio.sleep(_LOOK_EVERY)
        logs = self._claim.run_dir
        raise CommandError(
            f"not ready after {READY_PATIENCE:.0f} s; the logs are {logs}/fold.log, learn.log, serve.log"
        )

    @property
    def restarts(self) -> dict[str, int]:
        """How often each process was restarted."""
        return self._supervisor.restarts

    def stop(self) -> None:
        """End every process of this home, then give the home back."""
        self._supervisor.stop()
        self._claim.release()

    async def _make_topics(self, deadline: float) -> None:
        while True:
            try:
                made = await asyncio.to_thread(make_topics, self._kafka, 1)
                break
            except SourceUnready as error:
                if monotonic() > deadline:
                    raise CommandError(str(error)) from error
                await asyncio.sleep(_LOOK_EVERY)
        if made:
            self._say(f"made Kafka topics {', '.join(made)}")

    def _start(self, name: str, arguments: list[str]) -> None:
        runnel = str(Path(__file__).resolve().parent.parent / "runnel.py")
        self._supervisor.start(name, [sys.executable, runnel, name, *arguments], monotonic())


def require_port(host: str, port: int) -> None:
    """Raise CommandError where the port is taken, naming the process that has it where that can be known."""
    try:
        require_free(host, port)
    except PortInUse as error:
        raise CommandError(f"{error}{_listener(port)}") from None


def _listener(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" [now in use by process {connection.pid}, {psutil.Process(connection.pid).name()}]"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return ""
    return ""
