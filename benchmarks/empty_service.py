# The empty handler: Ray Serve, HAProxy and FastAPI as the service has them, and a POST that reads its body, no more.
"""As a process: `python -m benchmarks.empty_service HOME PORT` serves until SIGTERM."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from benchmarks.client import Connection, prepared
from serving.cluster import ClusterConfig, ServingCluster
from serving.ports import free_ports
from serving.service import ServiceConfig

if TYPE_CHECKING:
    from ray.serve import Application

READY_SECONDS = 120.0


class EmptyCluster(ServingCluster):
    """The service's own processes around a handler that does nothing."""

    def application(self, cluster: ClusterConfig, service: ServiceConfig) -> Application:
        """What is served instead."""
        from benchmarks.empty_replica import EmptyReplica
        from serving.deployment import application

        return application(cluster, service, EmptyReplica)


@contextmanager
def empty_service(home: Path) -> Iterator[int]:
    """The port of an empty service that is up."""
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "benchmarks.empty_service", str(home), str(port)]
    with (home / "empty.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_for(process, port, prepared("POST", "/v1/events", b"{}"), 202)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait_for(process: subprocess.Popen[bytes], port: int, request: bytes, status: int) -> None:
    """Wait until a request gets this status. RuntimeError where the process ends or the patience does."""
    connection, deadline = Connection(port), time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with {process.returncode}")
        try:
            if connection.call(request).status == status:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the service was not ready within {READY_SECONDS:.0f} s")


def main(home: Path, port: int) -> None:
    """Serve until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    running = EmptyCluster(ClusterConfig(home, port=port), ServiceConfig(home))
    try:
        stop.wait()
    finally:
        running.stop()


if __name__ == "__main__":
    typer.run(main)
