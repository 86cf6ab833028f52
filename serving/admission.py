# Admission: how much work a replica takes on at once; what is beyond is told to come back before its body is read.
from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.metrics import ServingMetrics
from serving.problems import Problem, overloaded, problem_response

SLATE_PATHS = ("/v1/recommendations", "/v1/similar-items")  # computed on the replica's one loop
BATCH_BYTES = 8192  # a body larger than this brings many events: about 40
UNBOUNDED_PATHS = ("/healthz", "/readyz", "/metrics")  # an operator's; they must answer when nothing else does


@dataclass(frozen=True, slots=True)
class AdmissionConfig:
    """Bounds of one replica; the proxy in front keeps the first three as well, at a tenth of the cost."""

    max_slates: int = 32  # at 3 ms each, less where several get a turn, the last of them waits 0.1 s
    max_batches: int = 16  # calls that bring many events or items, which take 1 ms and more each
    max_others: int = 256  # single events, which wait for the disk together, and look-ups
    max_body_bytes: int = 32 << 20
    max_bytes: int = 64 << 20  # of all bodies in flight
    max_body_seconds: float = 30.0  # for a body to come whole


class Admission:
    """ASGI middleware: 429 with Retry-After beyond the bounds, 413 and 408 for a body too large or too slow."""

    def __init__(self, app: ASGIApp, metrics: ServingMetrics, config: AdmissionConfig) -> None:
        self._app, self._metrics, self._config = app, metrics, config
        self._limits = {"slates": config.max_slates, "batches": config.max_batches, "others": config.max_others}
        self._in_flight: Counter[str] = Counter()  # by kind
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["query_string"] = b""  # no call takes one, and its bytes may be no text
        if scope["type"] != "http" or scope["path"] in UNBOUNDED_PATHS:
            return await self._app(scope, receive, send)
        length = _content_length(scope)
        kind = _kind(scope, length)
        problem = self._refusal(kind, length or 0)
        if problem is not None:
            return await problem_response(problem)(scope, receive, send)
        body = _Body(self, receive)
        self._in_flight[kind] += 1
        try:
            await self._app(scope, body, send)
        finally:
            body.close()
            self._in_flight[kind] -= 1
            self._bytes -= body.received

    def take(self, size: int, received: int) -> None:
        """Account for the next `size` bytes of a body with `received` bytes in all. Raises Problem 413 and 429."""
        self._bytes += size
        if received > self._config.max_body_bytes:
            raise self._too_large()
        if self._bytes > self._config.max_bytes:
            raise self._shed("bytes", f"bodies of {self._bytes} bytes are in flight")

    @property
    def max_body_seconds(self) -> float:
        """How long a body may take to come."""
        return self._config.max_body_seconds

    def _refusal(self, kind: str, length: int) -> Problem | None:
        in_flight = self._in_flight[kind]
        if in_flight >= self._limits[kind]:
            return self._shed(kind, f"{in_flight} calls of this kind are in flight")
        if length > self._config.max_body_bytes:
            return self._too_large()
        if self._bytes + length > self._config.max_bytes:
            return self._shed("bytes", f"bodies of {self._bytes} bytes are in flight")
        return None

    def _shed(self, reason: str, detail: str) -> Problem:
        self._metrics.shed.labels(reason).inc()
        return overloaded(detail)

    def _too_large(self) -> Problem:
        return Problem(413, f"the body is too large; at most {self._config.max_body_bytes} bytes are allowed")


class _Body:
    """The `receive` of one request, counted and with a deadline from its first call on.

    One timer a body: `asyncio.timeout_at` around each message took 8 us, a thirtieth of a call.
    """

    def __init__(self, admission: Admission, receive: Receive) -> None:
        self._admission, self._receive = admission, receive
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Task[object] | None = None  # for the next message
        self._is_late = self._is_whole = False
        self.received = 0

    async def __call__(self) -> Message:
        if self._is_whole:
            return await self._receive()  # whoever waits here waits for the client to go
        message = await self._next()
        size = len(message.get("body", b""))
        self.received += size
        self._is_whole = not message.get("more_body", False)
        if self._is_whole:
            self.close()
        self._admission.take(size, self.received)
        return message

    def close(self) -> None:
        """No more is awaited."""
        if self._timer is not None:
            self._timer.cancel()

    async def _next(self) -> Message:
        seconds = self._admission.max_body_seconds
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)
        self._waiting = task = asyncio.current_task()
        try:
            if not self._is_late:
                return await self._receive()
        except asyncio.CancelledError:
            if not self._is_late or task is None or task.uncancel():
                raise  # somebody else's
        finally:
            self._waiting = None
        raise Problem(408, f"the body did not come within {seconds:g} s", headers={"Connection": "close"})

    def _expire(self) -> None:
        self._is_late = True
        if self._waiting is not None:
            self._waiting.cancel()


def _kind(scope: Scope, length: int | None) -> str:
    if scope["path"] in SLATE_PATHS:
        return "slates"
    brings_many = scope["method"] in ("POST", "PUT") and (length is None or length > BATCH_BYTES)
    return "batches" if brings_many else "others"


def _content_length(scope: Scope) -> int | None:
    """What the header says; None without one."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return None
