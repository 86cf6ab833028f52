# A writer of the event log as a process, as each replica is one: python -m tests.chaos.writer HOME NAME ACKNOWLEDGED
"""It appends values of one to five events, marked NAME-NUMBER, and writes a line `MARK OFFSET` for each that the log
has acknowledged, until SIGTERM. A line is there once `write` has returned, whatever kills the process then.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from stream.log import EventLog
from stream.run import now_ms
from stream.sink import LogSink
from tests.stream.helpers import random_events

CHUNK = 2_000  # events drawn at a time; a writer that is killed soon draws few
GROUP = 8  # values that wait for their acknowledgements together
PAUSE_SECONDS = 0.01


def marked_values(name: str) -> Iterator[tuple[str, bytes]]:
    """Values without end, each with a mark that no other has; the schema ignores unknown fields."""
    numbers = count()
    for chunk in count():
        events = random_events(CHUNK, seed=[*name.encode(), chunk], num_users=50, num_items=300)
        place = 0
        while place < len(events):
            size = 1 + place % 5
            mark = f"{name}-{next(numbers)}"
            yield mark, json.dumps([{"mark": mark, **event} for event in events[place : place + size]]).encode()
            place += size


def main(home: Path, name: str, acknowledged: Path) -> None:
    """Write until told to stop."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    log = EventLog(home / "log")
    sink, values = LogSink(log, now_ms), marked_values(name)
    with acknowledged.open("a") as lines:
        while not stop.is_set():
            group = [(mark, sink.append(value)) for mark, value in (next(values) for _ in range(GROUP))]
            for mark, future in group:
                lines.write(f"{mark} {future.result(60)}\n")
                lines.flush()
            time.sleep(PAUSE_SECONDS)
    sink.close()
    log.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
