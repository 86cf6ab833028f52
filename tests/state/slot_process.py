# A process with a slot, for tests that kill it: python -m tests.state.slot_process FOLDER PROCESS, obeying stdin.
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from state.slots import Slot


class SlotProcess:
    """A child that counts in a slot of its own."""

    def __init__(self, folder: Path, process: str) -> None:
        command = [sys.executable, "-m", "tests.state.slot_process", str(folder), process]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name = self._answer()

    def tell(self, line: str) -> None:
        """Have a line obeyed: `count N`, `set N`, `keep`."""
        assert self._child.stdin is not None
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()
        assert self._answer() == "done"

    def kill(self) -> None:
        """End it as a crash does."""
        self._child.kill()
        self._child.communicate()

    def _answer(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline().strip()


def main(folder: Path, process: str) -> None:
    """Obey until stdin ends."""
    slot, registry = Slot(folder, process), CollectorRegistry()
    counter = Counter("work", "Work done", ["kind"], registry=registry).labels("any")
    histogram = Histogram("work_seconds", "Time of it", registry=registry, buckets=(1.0, 10.0))
    gauge = Gauge("level", "How high it stands", registry=registry)
    newest = Gauge("newest", "The last level of all", registry=registry, multiprocess_mode="mostrecent")
    print(slot.name, flush=True)
    for line in sys.stdin:
        order, _, number = line.strip().partition(" ")
        if order == "count":
            counter.inc(float(number))
            histogram.observe(float(number))
        elif order == "set":
            gauge.set(float(number))
            newest.set(float(number))
        else:
            slot.keep()
        print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
