# The API as a client sees it: sends events, and waits when the system asks for it.
from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

import httpx
import orjson

from commands.errors import CommandError

# Too much at once, or nobody behind the proxy: while the service starts, Ray Serve's proxy says 404 to every path.
_TRY_AGAIN = (404, 429, 502, 503, 504)


@dataclass(frozen=True)
class RetryConfig:
    """Patience with a system that is overloaded or restarting, in seconds."""

    first_wait: float = 0.1
    longest_wait: float = 5.0
    patience: float = 60.0  # then give up


@dataclass
class Sent:
    """What became of the events of one or more calls; `offsets` are the log's, by partition, after the last of them."""

    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    offsets: dict[str, int] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def events(self) -> int:
        """All that were sent."""
        return self.accepted + self.duplicate + self.rejected

    def summary(self) -> dict[str, object]:
        """The counts for a JSON summary."""
        counts = {"accepted": self.accepted, "duplicate": self.duplicate, "rejected": self.rejected}
        return {"events": self.events, **counts, "offsets": self.offsets}

    def add(self, other: Sent) -> None:
        """Take over another call's counts."""
        self.accepted += other.accepted
        self.duplicate += other.duplicate
        self.rejected += other.rejected
        self.offsets |= {name: max(offset, self.offsets.get(name, 0)) for name, offset in other.offsets.items()}
        self.reasons.update(other.reasons)


def reaches(offsets: Mapping[str, int], wanted: Mapping[str, int]) -> bool:
    """Whether every partition has come to where it is wanted."""
    return all(offsets.get(partition, 0) >= offset for partition, offset in wanted.items())


async def post_events(client: httpx.AsyncClient, events: Sequence[bytes], retry: RetryConfig | None = None) -> Sent:
    """Post events (JSON each); returns once they are durable.

    Overload, a service that is not there yet and a connection that fails are tried again with growing waits
    (Retry-After is obeyed). A repeat may come after a reply was lost: events with an id count once. CommandError when
    the patience ends or the call is refused.
    """
    retry = retry or RetryConfig()
    body, wait, deadline = b'{"events":[' + b",".join(events) + b"]}", retry.first_wait, monotonic() + retry.patience
    while True:
        trouble, pause = "", wait
        try:
            reply = await client.post("/v1/events", content=body, headers={"Content-Type": "application/json"})
            if reply.status_code == httpx.codes.ACCEPTED:
                return _sent(reply.content)
            trouble = f"{reply.status_code} {reply.text[:200]}"
            if reply.status_code not in _TRY_AGAIN:
                raise CommandError(f"{client.base_url} refused the events: {trouble}")
            pause = max(wait, _seconds(reply.headers.get("Retry-After")))
        except httpx.TransportError as error:
            trouble = f"{type(error).__name__} {error}"
        if monotonic() + pause > deadline:
            raise CommandError(f"{client.base_url} does not take events for {retry.patience:.0f} s: {trouble}")
        await asyncio.sleep(pause)
        wait = min(2 * wait, retry.longest_wait)


def _sent(content: bytes) -> Sent:
    reply = orjson.loads(content)
    sent = Sent(offsets=reply["offsets"])
    for result in reply["results"]:
        if result["status"] == "accepted":
            sent.accepted += 1
        elif result["status"] == "duplicate":
            sent.duplicate += 1
        else:
            sent.rejected += 1
            sent.reasons[result.get("reason", "")] += 1
    return sent


def _seconds(header: str | None) -> float:
    return float(header) if header and header.isdigit() else 0.0
