# Requests that wait at the same time: answered together as each would be alone, and none suffers from another.
from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from models.base import Query
from models.blend import Blend
from serving.problems import Problem
from serving.schemas import RecommendationRequest, SlateReply
from serving.steps import scorers
from serving.turns import Turns
from tests.serving.helpers import JsonEvent, Loop, crowd, open_loop, signal, view

ITEMS = [f"item-{number}" for number in range(40)]
USERS = ["new", *(f"u{number}" for number in range(9))]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    folder: Path = tmp_path_factory.mktemp("home")
    with open_loop(folder) as loop:
        sent = [*crowd(ITEMS), *histories()]
        assert loop.send(*sent).json()["accepted"] == len(sent)
        loop.settle()
        yield loop


def histories() -> Iterator[JsonEvent]:
    """Of all users but the first three: each has one view more than the one before, and every other one skips."""
    for number, user in enumerate(USERS[3:]):
        for place in range(number + 1):
            yield view(user, ITEMS[(7 * number + 3 * place) % len(ITEMS)], at=100_000 + place)
        if number % 2:
            yield signal("skip", user, ITEMS[number], at=100_100)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many queries the blend scored at once, each time."""
    sizes: list[int] = []
    score = Blend.score

    def noted(self: Blend, query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        sizes.append(len(query.now))
        return score(self, query, items)

    monkeypatch.setattr(Blend, "score", noted)
    return sizes


def asked_together(loop: Loop, requests: Sequence[RecommendationRequest]) -> list[SlateReply | BaseException]:
    async def ask() -> list[SlateReply | BaseException]:
        taken = (loop.service.turns.take(request) for request in requests)
        return await asyncio.gather(*taken, return_exceptions=True)

    return asyncio.run(ask())


def alone(loop: Loop, request: RecommendationRequest) -> SlateReply:
    return loop.service.recommend(request, loop.clock())


def assert_same(found: SlateReply | BaseException, expected: SlateReply) -> None:
    assert isinstance(found, SlateReply)
    assert [(item.item_id, item.source) for item in found.items] == [
        (item.item_id, item.source) for item in expected.items
    ]
    scores, wanted = (np.array([item.score for item in reply.items], float) for reply in (found, expected))
    np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-4)
    assert (found.model_version, found.session_offsets) == (expected.model_version, expected.session_offsets)


def test_lists_asked_for_together_are_those_asked_for_alone(learned: Loop, turns: list[int]) -> None:
    requests = [RecommendationRequest(user, 10) for user in USERS]
    replies = asked_together(learned, requests)
    assert turns == [8, 2]  # at most eight a turn
    assert len({reply.request_id for reply in replies if isinstance(reply, SlateReply)}) == len(USERS)
    for request, reply in zip(requests, replies, strict=True):
        assert_same(reply, alone(learned, request))


def test_requests_that_ask_for_something_else_have_a_turn_of_their_own(learned: Loop, turns: list[int]) -> None:
    others = [
        RecommendationRequest("u1", 10, explain=True),
        RecommendationRequest("u1", 10, model="popularity"),
        RecommendationRequest("u1", 10, candidates=ITEMS[:5]),
        RecommendationRequest("u1", 7),
        RecommendationRequest("u2", 7),
    ]
    replies = asked_together(learned, [*others, RecommendationRequest("u1", 10)])
    assert sorted(turns) == [1, 1, 1, 2]  # explained, of candidates, of ten places; of seven
    for request, reply in zip(others, replies, strict=False):
        assert_same(reply, alone(learned, request))


@pytest.mark.parametrize(
    "bad",
    [RecommendationRequest("u2", 10, [msgspec.Raw(b'{"type":"view"}')]), RecommendationRequest("u" * 1000, 10)],
    ids=["session", "id"],
)
def test_a_request_that_is_refused_is_refused_alone(
    learned: Loop, turns: list[int], bad: RecommendationRequest
) -> None:
    good = [RecommendationRequest(user, 10) for user in USERS[:3]]
    *replies, refused = asked_together(learned, [*good, bad])
    assert isinstance(refused, Problem)
    assert refused.status == 422
    assert turns == [3]
    for request, reply in zip(good, replies, strict=True):
        assert_same(reply, alone(learned, request))


@pytest.mark.parametrize("method", ["score", "candidates"])
def test_a_model_that_fails_on_one_user_fails_on_nobody_else(
    learned: Loop, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    real = getattr(Blend, method)

    def fail(self: Blend, query: Query, *rest: object) -> object:
        assert query.users is not None
        if b"u4" in query.users:
            raise IndexError("no such row")
        return real(self, query, *rest)

    requests = [RecommendationRequest(user, 10) for user in USERS[3:7]]
    expected = [alone(learned, request) for request in requests]
    monkeypatch.setattr(Blend, method, fail)
    for request, reply, wanted in zip(requests, asked_together(learned, requests), expected, strict=True):
        if request.user_id == "u4":
            assert isinstance(reply, SlateReply)
            assert len(reply.items) == 10
        else:
            assert_same(reply, wanted)


def test_one_with_very_many_candidates_is_scored_alone(
    learned: Loop, turns: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorers, "_MOST_TOGETHER", 20)
    few = [RecommendationRequest(user, 3, exclude=ITEMS[:30]) for user in USERS[:2]]
    requests = [few[0], RecommendationRequest("u3", 3), few[1]]
    replies = asked_together(learned, requests)
    assert turns == [3, 1]
    for request, reply in zip(requests, replies, strict=True):
        assert_same(reply, alone(learned, request))


class Stub:
    """Answers with the user's name, and notes what happens."""

    def __init__(self) -> None:
        self.happened: list[list[str]] = []
        self.turns = Turns(self.answer)

    def answer(self, requests: Sequence[RecommendationRequest]) -> list[SlateReply]:
        self.happened.append([request.user_id for request in requests])
        return [SlateReply(request.user_id, 1, None, 0, {}, []) for request in requests]

    async def ask(self, user: str) -> None:
        reply = await self.turns.take(RecommendationRequest(user))
        self.happened.append([reply.request_id])


def test_who_leaves_before_the_turn_is_not_answered_and_takes_nobody_along() -> None:
    async def ask(stub: Stub) -> None:
        leaving, staying = (asyncio.create_task(stub.ask(user)) for user in ("leaves", "stays"))
        await asyncio.sleep(0)  # both wait
        leaving.cancel()
        await staying

    stub = Stub()
    asyncio.run(ask(stub))
    assert stub.happened == [["stays"], ["stays"]]


def test_replies_go_out_before_the_next_turn() -> None:
    async def ask(stub: Stub) -> None:
        await asyncio.gather(*map(stub.ask, "abcdefghij"))

    stub = Stub()
    asyncio.run(ask(stub))
    assert stub.happened == [list("abcdefgh"), *map(list, "abcdefgh"), ["i", "j"], ["i"], ["j"]]


def test_it_serves_again_after_its_loop_has_ended() -> None:
    async def leave(stub: Stub) -> None:
        task = asyncio.create_task(stub.ask("leaves"))
        await asyncio.sleep(0)
        task.cancel()

    stub = Stub()
    asyncio.run(leave(stub))
    asyncio.run(stub.ask("comes"))
    assert stub.happened == [["comes"], ["comes"]]


def test_steps_are_counted_by_request(learned: Loop) -> None:
    def count() -> float:
        found = learned.service.metrics.registry.get_sample_value("runnel_step_seconds_count", {"step": "score"})
        return found or 0.0

    before = count()
    asked_together(learned, [RecommendationRequest(user, 10) for user in USERS[:5]])
    assert count() == before + 5
