# A running system for a benchmark: `runnel up` on a home of its own, ready, and ended in the end.
from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.client import Connection, prepared
from commands.api import reaches
from commands.settings import PREFIX
from serving.ports import free_ports
from serving.schemas import ModelReply
from state.offsets import get_totals
from state.store import Store

_ROOT = Path(__file__).resolve().parents[1]
_MODEL = prepared("GET", "/v1/model")
_READY = prepared("GET", "/readyz")


class Running:
    """A system that answers on `port`."""

    def __init__(self, home: Path, port: int, pid: int = 0) -> None:
        self.home, self.port, self.pid = home, port, pid  # the pid of `runnel up`
        self._connection = Connection(port)

    def model(self) -> ModelReply:
        """What /v1/model tells. For one thread."""
        return msgspec.json.decode(self._connection.call(_MODEL).body, type=ModelReply)

    def learned(self) -> tuple[int, int]:
        """Examples learned since the home was made, and those of them that gradient models were spared."""
        with Store(self.home / "learn") as store, store.read() as txn:
            totals = get_totals(txn, store)
            spared = store.get_meta(txn, "sampled_out", int) or 0
        return sum(count for (_, outcome), count in totals.items() if outcome == "learned"), spared

    def settle(self, seconds: float = 120.0) -> None:
        """Wait until all that the log holds is learned by the version that answers."""
        deadline = time.monotonic() + seconds
        while True:
            model = self.model()
            if reaches(model.learned_offsets, model.folded_offsets):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"not learned within {seconds:.0f} s: {model}")
            time.sleep(0.05)


@contextmanager
def running(
    settings: Mapping[str, str] | None = None,
    ready_seconds: float = 120.0,
    fill: Callable[[Path], None] | None = None,
) -> Iterator[Running]:
    """`runnel up` on a home in the temporary directory, ready; `settings` as RUNNEL_* names without prefix. The home is
    empty, or what `fill` makes of it before."""
    environment = os.environ | {PREFIX + name: value for name, value in (settings or {}).items()}
    with tempfile.TemporaryDirectory(prefix="runnel-bench-", ignore_cleanup_errors=True) as folder:
        home, port = Path(folder) / "home", free_ports(1)[0]
        if fill is not None:
            home.mkdir()
            fill(home)
        command = [sys.executable, str(_ROOT / "runnel.py"), "up", "--home", str(home), "--port", str(port)]
        with (
            (Path(folder) / "up.log").open("wb") as output,
            # A session of its own: Ctrl-C is the benchmark's alone.
            subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            ) as process,
        ):
            try:
                wait_until_ready(process, port, ready_seconds)
                yield Running(home, port, process.pid)
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    process.wait(60)


def wait_until_ready(process: subprocess.Popen[bytes], port: int, seconds: float) -> None:
    """Return once the API on a port is ready. Raises RuntimeError where its process ends, or at the time."""
    connection, deadline = Connection(port), time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode}")
        try:
            if connection.call(_READY).status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"it was not ready within {seconds:.0f} s")
