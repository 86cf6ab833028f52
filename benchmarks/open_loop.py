# A flood: calls at an open-loop pace over many connections, one thread, in a process of its own.
"""As a process: `python -m benchmarks.open_loop --port 8000 --kind slates --rate 3000 --seconds 60` prepares its calls,
prints `ready`, starts at a line on its standard input, and prints one JSON line (`Flooded`) in the end.

A call leaves when it is due, whatever became of those before; where every connection is taken it is counted as unsent.
One call costs about 30 us of CPU, so that ten times what a service of the same machine can do is within reach.
"""

from __future__ import annotations

import selectors
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import typer

from benchmarks.client import Line, Reply, prepared
from benchmarks.generator import Generator, generate
from benchmarks.load import DATA, click_events, event_calls, sent_now

MAX_CONNECTIONS = 400
PER_CALL = 100  # events
PREPARED = 4_000  # calls; they come again with another time, so that their events are new


@dataclass
class Flooded:
    """What became of a flood. Times in milliseconds, of accepted calls alone."""

    answers: dict[str, int] = field(default_factory=dict)  # calls by status; broken, unsent
    bare: int = 0  # refusals without Retry-After
    p50: float = 0.0
    p99: float = 0.0
    refused_p99: float = 0.0
    seconds: float = 0.0
    last_refusal: float = 0.0  # seconds after the start

    def count(self, *statuses: str) -> int:
        """Calls with one of these answers."""
        return sum(self.answers.get(status, 0) for status in statuses)


class Flood:
    """Sends prepared calls at a pace."""

    def __init__(self, port: int, calls: Sequence[bytes], rate: float) -> None:
        self._port, self._calls, self._rate = port, cycle(calls), rate
        self._selector = selectors.DefaultSelector()
        self._idle: list[Line] = []
        self._num_lines = 0
        self._answers: Counter[str] = Counter()
        self._accepted: list[float] = []
        self._refused: list[float] = []
        self._result = Flooded()

    def run(self, seconds: float) -> Flooded:
        """Send for so long, then wait for the last answers."""
        started = now = time.perf_counter()
        due = started
        while now < started + seconds or (self._selector.get_map() and now < started + seconds + 30):
            while due <= now and due < started + seconds:
                self._send(now)
                due += 1 / self._rate
            wait = max(0.0, min(due - now, 0.01)) if due < started + seconds else 0.01
            for key, _ in self._selector.select(wait):
                self._read(cast(Line, key.fileobj), key.data, started)
            now = time.perf_counter()
        return self._finish(now - started)

    def _finish(self, seconds: float) -> Flooded:
        result = self._result
        result.seconds, result.answers = seconds, dict(self._answers)
        if self._accepted:
            result.p50, result.p99 = (float(1000 * np.percentile(self._accepted, q)) for q in (50, 99))
        if self._refused:
            result.refused_p99 = float(1000 * np.percentile(self._refused, 99))
        return result

    def _send(self, now: float) -> None:
        try:
            line = self._idle.pop() if self._idle else self._open()
            if line is None:
                self._answers["unsent"] += 1
                return
            self._selector.register(line, selectors.EVENT_READ, now)
            line.send(sent_now(next(self._calls)))
        except OSError:
            self._answers["broken"] += 1
            if line is not None:
                self._close(line)

    def _open(self) -> Line | None:
        if self._num_lines >= MAX_CONNECTIONS:
            return None
        line = Line(self._port, 10.0)
        self._num_lines += 1
        return line

    def _read(self, line: Line, sent_at: float, started: float) -> None:
        try:
            reply = line.receive()
        except OSError:
            self._answers["broken"] += 1
            return self._close(line)
        if reply is None:
            return
        now = time.perf_counter()
        self._note(reply, now - sent_at, now - started)
        if reply.is_last:
            self._close(line)
        else:
            self._selector.unregister(line)
            self._idle.append(line)

    def _note(self, reply: Reply, taken: float, at: float) -> None:
        self._answers[str(reply.status)] += 1
        if reply.status < 300:
            self._accepted.append(taken)
        else:
            self._refused.append(taken)
            self._result.bare += b"retry-after:" not in reply.head
            self._result.last_refusal = at

    def _close(self, line: Line) -> None:
        if line in self._selector.get_map():
            self._selector.unregister(line)
        line.close()
        self._num_lines -= 1


@contextmanager
def flooding(port: int, slates: float, events: float, seconds: float) -> Iterator[list[Generator[Flooded]]]:
    """A flood of slates and one of calls with events, at so many calls a second each; started, ended in the end."""
    floods = [
        Generator("benchmarks.open_loop", {"port": port, "kind": kind, "rate": rate, "seconds": seconds}, Flooded)
        for kind, rate in (("slates", slates), ("events", events))
    ]
    try:
        for flood in floods:
            flood.start()
        yield floods
    finally:
        for flood in floods:
            flood.stop()


def main(
    port: Annotated[int, typer.Option()],
    kind: Annotated[str, typer.Option()],
    rate: float = 1000.0,
    seconds: float = 10.0,
    data: Annotated[Path, typer.Option(envvar="RUNNEL_DATA")] = DATA,
) -> None:
    """Prepare, say so, wait for a line, send, tell."""
    if kind == "events":
        num_calls = min(PREPARED // 4, round(rate * seconds) + 1)
        calls = list(event_calls(click_events(data, f"flood{time.time_ns()}"), num_calls, PER_CALL))
    else:
        calls = [prepared("POST", "/v1/recommendations", b'{"user_id":"%d","n":20}' % user) for user in range(PREPARED)]
    generate(lambda: Flood(port, calls, rate).run(seconds))


if __name__ == "__main__":
    typer.run(main)
