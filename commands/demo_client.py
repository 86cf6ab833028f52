# The demo's calls of the HTTP API; whatever fails is counted as an error and told to the caller as None.
from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

import httpx
import msgspec
from msgspec import UNSET

from commands.api import reaches
from commands.demo_state import DemoState
from serving.schemas import EventsReply, ModelReply, SlateReply

_Reply = TypeVar("_Reply", EventsReply, ModelReply, SlateReply)

_COVER_PATIENCE = 10.0  # seconds until an event that no list knows is an error
_COVER_PAUSE = 0.01


@dataclass(frozen=True)
class Slate:
    """A list as served."""

    request_id: str
    session_offsets: dict[str, int]
    item_ids: list[str]
    reasons: list[dict[str, float]]  # of each item, where they were asked for: the parts of its score


class DemoClient:
    """One connection pool for all simulated users."""

    def __init__(self, http: httpx.AsyncClient, state: DemoState) -> None:
        self._http, self._state = http, state

    async def recommend(self, user_id: str, n: int, model: str | None, *, explain: bool = False) -> Slate | None:
        """A list of n items for the user, by the named model or the system's own choice."""
        request: dict[str, object] = {"user_id": user_id, "n": n, "explain": explain}
        if model is not None:
            request["model"] = model
        reply = await self._call("POST", "/v1/recommendations", request, SlateReply)
        if reply is None:
            return None
        self._state.lists += 1
        if reply.model_version >= self._state.model_version:
            self._state.model_version, self._state.model_age_ms = reply.model_version, reply.model_age_ms
        reasons = [item.reason for item in reply.items if item.reason is not UNSET]
        return Slate(reply.request_id, reply.session_offsets, [item.item_id for item in reply.items], reasons)

    async def send(self, events: Sequence[dict[str, object]]) -> dict[str, int] | None:
        """Post events; the offsets at which they are folded."""
        return self._accepted(await self._call("POST", "/v1/events", {"events": events}, EventsReply))

    async def put_items(self, items: Sequence[dict[str, object]]) -> dict[str, int] | None:
        """Put items into the catalogue; the offsets at which they are folded."""
        return self._accepted(await self._call("PUT", "/v1/items", {"items": items}, EventsReply))

    async def recommend_covering(
        self,
        user_id: str,
        n: int,
        model: str | None,
        offsets: Mapping[str, int],
        sent_at: float,
        *,
        explain: bool = False,
    ) -> tuple[Slate, float] | None:
        """Ask at once and again until a list's session offsets have reached `offsets`: that list, and the seconds
        since `sent_at` (monotonic)."""
        while monotonic() < sent_at + _COVER_PATIENCE:
            slate = await self.recommend(user_id, n, model, explain=explain)
            if slate is not None and reaches(slate.session_offsets, offsets):
                return slate, monotonic() - sent_at
            await asyncio.sleep(_COVER_PAUSE)
        self._state.errors[f"no list knew an event within {_COVER_PATIENCE:.0f} s"] += 1
        return None

    async def model(self) -> ModelReply | None:
        """What is folded and learned."""
        return await self._call("GET", "/v1/model", None, ModelReply)

    def _accepted(self, reply: EventsReply | None) -> dict[str, int] | None:
        if reply is None:
            return None
        self._state.events += reply.accepted
        for result in reply.results:
            if result.status != "accepted":
                self._state.errors[f"event {result.status}: {result.reason or ''}"] += 1
        return reply.offsets

    async def _call(self, method: str, path: str, body: object, kind: type[_Reply]) -> _Reply | None:
        content = None if body is None else msgspec.json.encode(body)
        try:
            reply = await self._http.request(method, path, content=content)
        except httpx.HTTPError as error:
            self._state.errors[f"{method} {path}: {type(error).__name__}"] += 1
            return None
        if not reply.is_success:
            self._state.errors[f"{method} {path}: {reply.status_code} {reply.text[:200]}"] += 1
            return None
        return msgspec.json.decode(reply.content, type=kind)
