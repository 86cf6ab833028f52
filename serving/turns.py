# Requests that wait at the same time are answered together: models score eight queries in half the time of eight alone.
from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving.problems import Problem
from serving.schemas import RecommendationRequest, SlateReply

_LOG = logging.getLogger("runnel.serving")
_MOST = 8  # of a turn: everything else that came meanwhile waits until its end
Outcome = SlateReply | Problem


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    request: RecommendationRequest
    outcome: asyncio.Future[Outcome | None]  # None: the turn failed, by what no step foresaw


class Turns:
    """Gives requests that ask alike, and are there when the loop comes to answer, one turn, the oldest first. No turn
    waits for more of them to come."""

    def __init__(self, answer: Callable[[Sequence[RecommendationRequest]], Sequence[Outcome]]) -> None:
        self._answer = answer
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None

    async def take(self, request: RecommendationRequest) -> SlateReply:
        """The reply to a request. Raises Problem."""
        outcome: Outcome | None = None
        if request.candidates is None and not request.model and not request.explain:
            waiting = _Waiting(request, asyncio.get_running_loop().create_future())
            self._waiting.append(waiting)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._run())
            outcome = await waiting.outcome
        if outcome is None:
            outcome = self._answer([request])[0]  # what fails, fails to whom it belongs
        if isinstance(outcome, Problem):
            raise outcome
        return outcome

    async def _run(self) -> None:
        while turn := self._next():
            task = asyncio.create_task(self._answered([waiting.request for waiting in turn]))
            await asyncio.wait([task])
            if (error := task.exception()) is not None:
                _LOG.error("a turn of %d failed; each is answered alone", len(turn), exc_info=error)
            outcomes = [None] * len(turn) if error is not None else task.result()
            for waiting, outcome in zip(turn, outcomes, strict=True):
                if not waiting.outcome.done():  # its caller may have left meanwhile
                    waiting.outcome.set_result(outcome)
            await asyncio.sleep(0)  # replies are sent before the next turn

    def _next(self) -> list[_Waiting]:
        """Those who have waited longest and ask for as many places as the first; nobody who has left."""
        self._waiting = [waiting for waiting in self._waiting if not waiting.outcome.done()]
        turn = [waiting for waiting in self._waiting if waiting.request.n == self._waiting[0].request.n][:_MOST]
        self._waiting = [waiting for waiting in self._waiting if waiting not in turn]
        return turn

    async def _answered(self, requests: Sequence[RecommendationRequest]) -> Sequence[Outcome]:
        return self._answer(requests)
