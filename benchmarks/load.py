# Load over HTTP for the benchmarks: Globo's clicks as prepared calls at an open-loop pace, in a process of its own.
"""As a process: `python -m benchmarks.load --port 8000 --rate 1000 --per-call 10 --seconds 20` prepares its calls,
prints `ready`, starts at a line on its standard input, and prints one JSON line (`LoadResult`) in the end.

Events are Globo's clicks in their order with the time of sending as their timestamp. The pace is open-loop: a call has
its due time whatever became of those before, and its acknowledgement is measured from there, so that a stall counts.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.client import Connection, prepared
from benchmarks.generator import Generator, generate
from stream.readers import open_data_set

DATA = Path("../shared/data")
_PREPARED_EVENTS = 400_000  # a longer load makes its calls while it sends
_ID = re.compile(rb'("user_id":|"item_id":)"(\d+)"')
_STAMP = b"1000000000000"  # milliseconds; what every call carries until it is sent


def click_events(data: Path, tag: str, skip_events: int = 0, fold_into: int = 0) -> Iterator[bytes]:
    """Globo's clicks from `skip_events` on, from the beginning again where they end, without end; `sent_now` gives them
    their time. `tag` makes their event ids differ from those of another run over the same clicks; `fold_into`
    folds the users and the items of the data set into so many of each (0: they stay as they are)."""
    return islice(_values(data, tag, fold_into), skip_events, None)


def event_calls(events: Iterator[bytes], num_calls: int, per_call: int) -> Iterator[bytes]:
    """POSTs of the next events, `per_call` each."""
    for _ in range(num_calls):
        yield prepared("POST", "/v1/events", b"[" + b",".join(islice(events, per_call)) + b"]")


def _values(data: Path, tag: str, fold_into: int) -> Iterator[bytes]:
    for lap in count():
        clicks, _ = open_data_set("globo", data)
        event_id = b'"event_id":"%s-%d' % (tag.encode(), lap)
        for click in clicks:
            value = click.value.replace(b'"timestamp":%d' % click.timestamp, b'"timestamp":' + _STAMP)
            value = value.replace(b'"event_id":"globo', event_id)
            yield (
                _ID.sub(lambda found: b'%s"%d"' % (found[1], int(found[2]) % fold_into), value) if fold_into else value
            )


def sent_now(call: bytes) -> bytes:
    """The call with the present time in all its events."""
    return call.replace(_STAMP, b"%d" % (time.time_ns() // 1_000_000))


@dataclass
class LoadResult:
    """What became of a load. Times in milliseconds."""

    calls: int = 0
    accepted: int = 0  # events
    refused: dict[str, int] = field(default_factory=dict)  # calls by status, or "broken"
    ack_p50: float = 0.0  # from when a call was due to its acknowledgement
    ack_p99: float = 0.0
    late_p99: float = 0.0  # how long after it was due a call left: high means that answers came too slowly
    seconds: float = 0.0


class Load:
    """Posts calls at a pace over some connections, in threads."""

    def __init__(self, port: int, calls: Iterable[bytes], calls_per_second: float, num_connections: int = 8) -> None:
        self._port, self._calls, self._pace = port, enumerate(calls), calls_per_second
        self._num_connections = num_connections
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._result = LoadResult()
        self._acks: list[float] = []
        self._lates: list[float] = []

    def run(self) -> LoadResult:
        """Post everything; returns when the last answer is there, or soon after `stop`."""
        started = time.perf_counter()
        count = self._num_connections
        threads = [threading.Thread(target=self._post, args=(started,), daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        result = self._result
        result.seconds = time.perf_counter() - started
        if self._acks:
            result.ack_p50, result.ack_p99 = (float(1000 * np.percentile(self._acks, q)) for q in (50, 99))
            result.late_p99 = float(1000 * np.percentile(self._lates, 99))
        return result

    def stop(self) -> None:
        """Post no more."""
        self._stop.set()

    def _post(self, started: float) -> None:
        connection = Connection(self._port)
        while (numbered := self._next()) is not None:
            due = started + numbered[0] / self._pace
            if self._stop.wait(max(0.0, due - time.perf_counter())):
                break
            late = time.perf_counter() - due
            try:
                status, body, _ = connection.call(sent_now(numbered[1]))
            except OSError:
                status, body = 0, b""
            self._count(status, body, late, time.perf_counter() - due)
        connection.close()

    def _next(self) -> tuple[int, bytes] | None:
        with self._lock:
            return next(self._calls, None)

    def _count(self, status: int, body: bytes, late: float, ack: float) -> None:
        with self._lock:
            self._result.calls += 1
            if status == 202:
                self._result.accepted += int(body.split(b'"accepted":', 1)[1].split(b",", 1)[0])
                self._acks.append(ack)
                self._lates.append(late)
            else:
                reason = str(status or "broken")
                self._result.refused[reason] = self._result.refused.get(reason, 0) + 1


@dataclass(frozen=True)
class Plan:
    """A load as a process of its own."""

    port: int
    rate: float  # events a second
    per_call: int
    seconds: float
    data: Path = DATA
    skip: int = 0  # events of the data set that are left out at its beginning
    tag: str = "load"
    fold_into: int = 0  # so many users and items; 0: they stay as they are


@contextmanager
def loading(plan: Plan) -> Iterator[Generator[LoadResult]]:
    """A prepared load that is ended in the end."""
    process = Generator("benchmarks.load", asdict(plan), LoadResult)
    try:
        yield process
    finally:
        process.stop()


def main(
    port: Annotated[int, typer.Option()],
    rate: float = 1000.0,
    per_call: Annotated[int, typer.Option("--per-call")] = 10,
    seconds: float = 20.0,
    data: Annotated[Path, typer.Option(envvar="RUNNEL_DATA")] = DATA,
    skip: int = 0,
    tag: str = "load",
    fold_into: int = 0,
) -> None:
    """Prepare, say so, wait for a line, send, tell."""
    calls: Iterable[bytes] = event_calls(
        click_events(data, tag, skip, fold_into), round(rate * seconds / per_call), per_call
    )
    load = Load(port, list(calls) if rate * seconds <= _PREPARED_EVENTS else calls, rate / per_call)
    generate(load.run)


if __name__ == "__main__":
    typer.run(main)
