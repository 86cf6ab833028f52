# Serves one home until SIGTERM: what the cluster tests start as a process of its own.
from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from serving.cluster import ClusterConfig, serve_until
from serving.keys import parse_keys
from serving.service import ServiceConfig


def main(home: str, host: str, port: str, keys: str = "") -> None:
    """Serve `home` at `host:port`; `keys` are lines of a keys file."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    service = ServiceConfig(Path(home), keys=parse_keys(keys, "keys"))
    serve_until(stop, ClusterConfig(Path(home), host, int(port)), service)


if __name__ == "__main__":
    main(*sys.argv[1:])
