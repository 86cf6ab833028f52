# Sends a stream of events to a running system: in order, in batches, at full speed or at a multiple of real time.
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from commands.api import Sent, post_events

TimedEvent = tuple[int, bytes]  # event time in milliseconds, JSON
Post = Callable[[Sequence[bytes]], Awaitable[Sent]]  # returns once the events are durable


@dataclass(frozen=True)
class SendConfig:
    """`speed` is a multiple of real time, None is as fast as the system takes them."""

    speed: float | None = None
    batch_events: int = 2_000
    batch_bytes: int = 2_000_000
    headers: Mapping[str, str] = field(default_factory=dict)  # of every call: the API key
    tick: float = 0.1  # seconds of the sender's clock that one batch covers at most, unless at full speed


async def send(url: str, events: Iterable[TimedEvent], num_events: int, config: SendConfig) -> Sent:
    """Send all events to the API at `url`, as `send_with`."""
    async with httpx.AsyncClient(base_url=url, headers=config.headers, timeout=30.0) as client:
        return await send_with(lambda batch: post_events(client, batch), events, num_events, config)


async def send_with(post: Post, events: Iterable[TimedEvent], num_events: int, config: SendConfig) -> Sent:
    """Send all events one batch after the other, so that the log keeps their order; shows a progress bar."""
    total, start = Sent(), monotonic()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("events", total=num_events, rate="")
        for due, batch in batches(events, config):
            await asyncio.sleep(max(0.0, start + due - monotonic()))
            total.add(await post(batch))
            progress.update(task, completed=total.events, rate=f"{total.events / (monotonic() - start):,.0f}/s")
    for reason, count in total.reasons.most_common(5):
        console.print(f"rejected {count}: {reason}")
    return total


def batches(events: Iterable[TimedEvent], config: SendConfig) -> Iterator[tuple[float, list[bytes]]]:
    """Batches and when each is due, in seconds after the start: no event leaves before its time."""
    batch: list[bytes] = []
    size, first, due, opened = 0, -1, 0.0, 0.0
    for timestamp, value in events:
        first = timestamp if first < 0 else first
        at = max(due, (timestamp - first) / 1000 / config.speed) if config.speed else 0.0
        full = len(batch) >= config.batch_events or size + len(value) > config.batch_bytes
        if batch and (full or at > opened + config.tick):
            yield due, batch
            batch, size = [], 0
        opened = opened if batch else at
        due = at
        batch.append(value)
        size += len(value)
    if batch:
        yield due, batch
