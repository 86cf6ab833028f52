# A writer of the event log as a process, as each replica is one: python -m tests.chaos.writer HOME NAME ACKNOWLEDGED
"""It appends values of one to five events, marked NAME-NUMBER, and writes a line `MARK OFFSET` for each that the log
has acknowledged, until SIGTERM. A line is there once `write` has returned, whatever kills the process then.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from stream.log import PARTITION, EventLog
from stream.log_sink import LogSink
from stream.run import now_ms
from stream.sink import SinkClosed, Value
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


async def write(log: EventLog, name: str, acknowledged: Path, stop: asyncio.Event) -> None:
    """Append groups of values, and note each value's offset once it is acknowledged."""
    sink, values = LogSink(log, now_ms), marked_values(name)
    with acknowledged.open("a") as lines:
        while not stop.is_set():
            group = [next(values) for _ in range(GROUP)]
            calls = [asyncio.create_task(sink.append(Value(value))) for _, value in group]
            for (mark, _), call in zip(group, calls, strict=True):
                with suppress(SinkClosed):  # its log writer was killed: not acknowledged
                    lines.write(f"{mark} {(await call)[PARTITION] - 1}\n")
                    lines.flush()
            if not sink.is_alive:  # killed before it had answered at all: a replica would be replaced
                sink = LogSink(log, now_ms)
            await asyncio.sleep(PAUSE_SECONDS)
    sink.close()


async def main(home: Path, name: str, acknowledged: Path) -> None:
    """Write until told to stop."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    log = EventLog(home / "log")
    await write(log, name, acknowledged, stop)
    log.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
