# Overload: what is beyond a replica's bounds is told to come back, and afterwards all is accepted again.
from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.types import Message

from serving.admission import AdmissionConfig
from serving.app import build_app
from serving.intake import IntakeConfig
from serving.service import ServiceConfig
from tests.serving.helpers import Loop, open_loop, problem, view

SMALL = AdmissionConfig(max_slates=2, max_others=3, max_body_bytes=1000, max_bytes=1500)
EVENT = b'{"type": "view", "user_id": "u", "item_id": "i", "timestamp": 1763645400000}'
SLATE = ("POST", "/v1/recommendations", b'{"user_id": "u"}')


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    config = ServiceConfig(tmp_path, admission=SMALL, intake=IntakeConfig(max_lag_events=20))
    with open_loop(tmp_path, config) as loop:
        loop.settle()
        yield loop


@dataclass
class Call:
    """A call whose client sends its body when told to."""

    app: FastAPI
    method: str
    path: str
    body: bytes
    is_length_told: bool = False
    may_send: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[Message] = field(default_factory=list)

    async def run(self) -> int:
        """Make the call; its status."""
        headers = [(b"content-length", str(len(self.body)).encode())] if self.is_length_told else []
        scope = {
            "type": "http",
            "method": self.method,
            "path": self.path,
            "raw_path": self.path.encode(),
            "headers": headers,
        }
        scope |= {"query_string": b"", "scheme": "http", "http_version": "1.1", "server": ("test", 80), "root_path": ""}

        async def send(message: Message) -> None:
            self.sent.append(message)

        await self.app(scope, self._receive, send)
        return self.status

    async def _receive(self) -> Message:
        await self.may_send.wait()
        return {"type": "http.request", "body": self.body, "more_body": False}

    @property
    def status(self) -> int:
        """The status of the answer."""
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The headers of the answer."""
        return dict(self.sent[0]["headers"])


async def at_once(calls: list[Call]) -> list[int]:
    """Begin all calls, let their bodies come when all have begun, and give their statuses."""
    tasks = [asyncio.create_task(call.run()) for call in calls]
    await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    for call in calls:
        call.may_send.set()
    return [await task for task in tasks]


def test_slates_beyond_the_bound_get_429_and_all_are_accepted_again_afterwards(loop: Loop) -> None:
    app = build_app(loop.service)

    async def play() -> None:
        calls = [Call(app, *SLATE) for _ in range(10)]
        assert sorted(await at_once(calls)) == [200] * 2 + [429] * 8
        assert all(call.headers[b"retry-after"] == b"1" for call in calls if call.status == 429)
        for _ in range(10):
            assert await at_once([Call(app, *SLATE), Call(app, *SLATE)]) == [200, 200]

    asyncio.run(play())
    assert 'runnel_shed_total{reason="slates"} 8.0' in loop.client.get("/metrics").text


def test_a_flood_of_slates_holds_back_no_events(loop: Loop) -> None:
    app = build_app(loop.service)

    async def play() -> None:
        calls = [*(Call(app, *SLATE) for _ in range(10)), Call(app, "POST", "/v1/events", EVENT)]
        assert (await at_once(calls))[-1] == 202

    asyncio.run(play())


def test_calls_that_bring_many_events_have_a_bound_of_their_own(tmp_path: Path) -> None:
    with open_loop(tmp_path, ServiceConfig(tmp_path, admission=AdmissionConfig(max_batches=1))) as loop:
        loop.settle()
        app = build_app(loop.service)

        async def play() -> None:
            bulky = [Call(app, "POST", "/v1/events", EVENT.ljust(9000), is_length_told=True) for _ in range(3)]
            single = [Call(app, "POST", "/v1/events", EVENT, is_length_told=True) for _ in range(3)]
            assert await at_once(bulky + single) == [202, 429, 429, 202, 202, 202]

        asyncio.run(play())


@pytest.mark.parametrize("is_length_told", [True, False])
def test_bodies_in_flight_are_bounded_in_sum(loop: Loop, is_length_told: bool) -> None:
    app = build_app(loop.service)

    async def play() -> None:
        calls = [Call(app, "POST", "/v1/events", EVENT.ljust(900), is_length_told) for _ in range(2)]
        assert sorted(await at_once(calls)) == [202, 429]  # 1800 bytes, of which 1500 may be in flight
        assert await at_once([Call(app, "POST", "/v1/events", EVENT.ljust(900), is_length_told)]) == [202]

    asyncio.run(play())


def test_a_body_that_does_not_come_gets_408_and_holds_no_place(tmp_path: Path) -> None:
    impatient = AdmissionConfig(max_slates=2, max_body_seconds=0.05)
    with open_loop(tmp_path, ServiceConfig(tmp_path, admission=impatient)) as loop:
        loop.settle()
        app = build_app(loop.service)

        async def play() -> None:
            calls = [Call(app, *SLATE) for _ in range(2)]
            assert await asyncio.gather(*(call.run() for call in calls)) == [408, 408]
            whole = [Call(app, *SLATE) for _ in range(2)]
            for call in whole:
                call.may_send.set()
            assert await asyncio.gather(*(call.run() for call in whole)) == [200, 200]

        asyncio.run(play())


def test_events_get_429_while_the_fold_stage_is_too_far_behind_and_none_is_lost(loop: Loop) -> None:
    accepted = 0
    for number in range(40):
        response = loop.send(view(f"u{number}", "i"))
        if response.status_code == 429:
            break
        accepted += response.json()["accepted"]
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert "wait to be folded" in str(problem(response)["detail"])
    assert accepted == 21  # one beyond the bound of 20 shows that it is passed
    loop.settle()
    assert loop.send(view("u99", "i")).status_code == 202
    assert loop.client.get("/v1/model").json()["events_total"] == accepted


def test_the_lag_is_told_in_events_however_they_were_packed(loop: Loop) -> None:
    assert loop.send(*(view("u", "i", at=number) for number in range(15))).status_code == 413  # of SMALL bytes
    for number in range(4):
        assert loop.send(*(view(f"u{number}", "i", at=place) for place in range(7))).status_code == 202
    assert loop.send(view("u", "i")).status_code == 429
    loop.settle()
    assert loop.send(view("u", "i")).status_code == 202


def test_an_operator_s_calls_answer_when_nothing_else_does(loop: Loop) -> None:
    app = build_app(loop.service)

    async def play() -> None:
        calls = [*(Call(app, *SLATE) for _ in range(3)), *(Call(app, "POST", "/v1/events", b"{}") for _ in range(4))]
        tasks = [asyncio.create_task(call.run()) for call in calls]
        for _ in range(20):
            await asyncio.sleep(0)
        for path in ("/healthz", "/readyz", "/metrics"):
            assert await Call(app, "GET", path, b"").run() == 200
        for call in calls:
            call.may_send.set()
        await asyncio.gather(*tasks)

    asyncio.run(play())
