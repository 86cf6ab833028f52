# Sending events: order, pace, patience with a system that asks to wait, and refusals that are told.
from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import orjson
import pytest

from commands.api import RetryConfig, Sent, post_events
from commands.errors import CommandError
from commands.send import SendConfig, batches

_QUICK = RetryConfig(first_wait=0.001, longest_wait=0.002, patience=0.05)


def _accept(request: httpx.Request) -> httpx.Response:
    events = orjson.loads(request.content)["events"]
    statuses = ["rejected" if event.get("bad") else "accepted" for event in events]
    results = [{"status": status, "reason": "why"} for status in statuses]
    return httpx.Response(202, json={"accepted": statuses.count("accepted"), "results": results, "offsets": {"p": 7}})


def _post(answer: Callable[[httpx.Request], httpx.Response], events: list[bytes]) -> Sent:
    async def run() -> Sent:
        transport = httpx.MockTransport(answer)
        async with httpx.AsyncClient(base_url="http://runnel", transport=transport) as client:
            return await post_events(client, events, _QUICK)

    return asyncio.run(run())


def test_what_became_of_each_event_is_counted() -> None:
    sent = _post(_accept, [b'{"a":1}', b'{"bad":1}', b'{"a":2}'])
    assert (sent.accepted, sent.rejected, sent.duplicate, sent.offsets) == (2, 1, 0, {"p": 7})
    assert sent.reasons == {"why": 1}


@pytest.mark.parametrize("trouble", [404, 429, 503, "connection"])
def test_overload_a_service_that_is_not_there_yet_and_a_lost_connection_are_tried_again(trouble: int | str) -> None:
    calls = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        if calls > 2:
            return _accept(request)
        if isinstance(trouble, int):
            return httpx.Response(trouble)
        raise httpx.ConnectError("refused")

    assert _post(answer, [b"{}"]).accepted == 1
    assert calls == 3


def test_a_refusal_is_told_at_once() -> None:
    with pytest.raises(CommandError, match="refused the events: 413"):
        _post(lambda _: httpx.Response(413, text="too large"), [b"{}"])


def test_patience_ends() -> None:
    with pytest.raises(CommandError, match="does not take events"):
        _post(lambda _: httpx.Response(503), [b"{}"])


def test_batches_keep_order_and_bounds_at_full_speed() -> None:
    events = [(1000 + number, b"x" * (number % 7 + 1)) for number in range(1000)]
    config = SendConfig(batch_events=64, batch_bytes=200)
    cut = [batch for _, batch in batches(events, config)]
    assert [value for batch in cut for value in batch] == [value for _, value in events]
    assert all(len(batch) <= 64 and sum(map(len, batch)) <= 200 for batch in cut)


def test_at_a_multiple_of_real_time_no_event_leaves_before_its_time() -> None:
    events = [(at, b"%d" % at) for at in (0, 1000, 1001, 900, 60_000)]
    times = {value: due for due, batch in batches(events, SendConfig(speed=10.0)) for value in batch}
    assert times[b"0"] <= 0.1
    assert times[b"1000"] >= 0.1
    assert times[b"1001"] >= 0.1001
    assert times[b"60000"] >= 6.0
