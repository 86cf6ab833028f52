# What the proxy has sent away before any replica saw it: asked of HAProxy's own socket at a scrape.
from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

FRONTEND = "http_frontend"  # as Ray's template calls it; its table counts by kind of call
_ROW = re.compile(rb"key=(\w+) .*?\bgpc0=(\d+)")
_TIMEOUT_SECONDS = 0.2


class ProxyMetrics:
    """A prometheus_client collector. Without a proxy that answers there are no samples; it counts from 0 when it is
    replaced, which it is when replicas come and go."""

    def __init__(self, admin_socket: Path) -> None:
        self._admin_socket = admin_socket

    def collect(self) -> Iterator[Metric]:
        """The one family."""
        family = CounterMetricFamily("runnel_proxy_shed", "Calls that the proxy told to come back", labels=["kind"])
        for path in self._admin_socket.parent.glob(f"*/{self._admin_socket.name}"):  # Ray adds a folder per node
            for kind, count in _ROW.findall(_ask(path, f"show table {FRONTEND}\n".encode())):
                family.add_metric([kind.decode()], int(count))
        yield family


def _ask(path: Path, command: bytes) -> bytes:
    """HAProxy's answer, empty where none comes."""
    parts = []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_SECONDS)
            connection.connect(str(path))
            connection.sendall(command)
            while part := connection.recv(1 << 16):
                parts.append(part)
    except OSError:
        return b""
    return b"".join(parts)
