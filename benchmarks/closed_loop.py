# Clients that ask again as soon as they have their answer, all in one thread of a process of their own.
from __future__ import annotations

import multiprocessing
import selectors
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import cast

import msgspec

from benchmarks.client import Line, Reply
from benchmarks.generator import go_first
from benchmarks.load import sent_now

TOO_MANY = 429


@dataclass
class Asked:
    """What some clients were told in a while."""

    seconds: float = 0.0
    spent: list[float] = field(default_factory=list)  # seconds of each call that was answered as it should be
    shed: int = 0  # calls refused as too much at once
    wrong: list[str] = field(default_factory=list)  # any other answer


def ask(
    port: int, calls: Iterable[bytes], num_clients: int, seconds: float, status: int, unwanted: bytes | None = None
) -> Asked:
    """Prepared calls from so many clients, until the time is over or none is left.

    The clients are a process that goes first on the machine, as if it were elsewhere: what is measured waits for the
    service, and not for threads of one interpreter that take turns. `unwanted` must not be in an answer. Raises
    RuntimeError on an answer that is neither as it should be nor 429.
    """
    context = multiprocessing.get_context("fork")  # the calls need not be copied
    ours, theirs = context.Pipe(duplex=False)
    clients = _Clients(port, calls, status, unwanted)

    def run() -> None:
        go_first()
        theirs.send_bytes(msgspec.json.encode(asdict(clients.run(num_clients, seconds))))

    process = context.Process(target=run, daemon=True)
    process.start()
    theirs.close()
    try:
        asked = msgspec.json.decode(ours.recv_bytes(), type=Asked)
    except EOFError:
        raise RuntimeError("the clients ended without a result: see above") from None
    finally:
        process.join()
    if asked.wrong:
        raise RuntimeError(f"{len(asked.wrong)} calls were answered {asked.wrong[0]}")
    return asked


class _Clients:
    """The loop over them."""

    def __init__(self, port: int, calls: Iterable[bytes], status: int, unwanted: bytes | None) -> None:
        self._port, self._calls, self._status, self._unwanted = port, iter(calls), status, unwanted
        self._selector = selectors.DefaultSelector()
        self._asked = Asked()

    def run(self, num_clients: int, seconds: float) -> Asked:
        """Ask until the time is over."""
        started = time.perf_counter()
        for _ in range(num_clients):
            self._send(Line(self._port))
        while self._selector.get_map():
            is_over = time.perf_counter() > started + seconds
            for key, _ in self._selector.select():
                sent_at, request = key.data
                line = cast(Line, key.fileobj)
                self._selector.unregister(line)
                self._receive(line, sent_at, request, is_over)
        self._asked.seconds = time.perf_counter() - started
        return self._asked

    def _send(self, line: Line, request: bytes | None = None) -> None:
        request = request or next(self._calls, None)
        if request is None:
            return line.close()
        self._selector.register(line, selectors.EVENT_READ, (time.perf_counter(), request))
        line.send(sent_now(request))

    def _receive(self, line: Line, sent_at: float, request: bytes, is_over: bool) -> None:
        try:
            reply = line.receive()
        except ConnectionError:  # a proxy that was replaced hangs up: ask once more
            line.close()
            return self._send(Line(self._port), request)
        if reply is None:
            self._selector.register(line, selectors.EVENT_READ, (sent_at, request))
            return
        self._note(reply, time.perf_counter() - sent_at)
        if is_over or reply.is_last:
            line.close()
        if not is_over:
            self._send(Line(self._port) if reply.is_last else line)

    def _note(self, reply: Reply, taken: float) -> None:
        if reply.status == TOO_MANY:
            self._asked.shed += 1
        elif reply.status != self._status or (self._unwanted and self._unwanted in reply.body):
            self._asked.wrong.append(f"{reply.status} {reply.body[:200]!r}")
        else:
            self._asked.spent.append(taken)
