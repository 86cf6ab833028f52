# Simulated users that live on the API: they ask for a list, view or skip, tell, leave and come back.
from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import numpy as np

from commands.demo_client import DemoClient, Slate
from commands.demo_items import item_number
from commands.demo_state import DemoState
from commands.history import look_event
from commands.policies import expected_views, oracle_list, random_list
from commands.view_rates import Moment
from commands.visits import Look, browse, time_away
from commands.world import World


@dataclass(frozen=True)
class UsersConfig:
    """How users deal with the API; times are seconds."""

    list_length: int = 10
    events_per_call: int = 5  # an app sends what happened every few items
    pause: float = 0.3  # between the last item of a list and asking for the next
    measured: float = 0.1  # share of lists asked for without pause, again and again until they know the last event
    after_error: float = 1.0


@dataclass(frozen=True)
class Stage:
    """What all users share: the world with its clock, the API, and where results go."""

    world: World
    client: DemoClient
    state: DemoState
    now: Callable[[], float]  # seconds of the world
    start_ms: int  # milliseconds since 1970 when the world began
    rng: np.random.Generator


class SimulatedUser:
    """User number `user`; `model` is what they are served by (None: the system's choice)."""

    def __init__(self, stage: Stage, user: int, group: str, model: str | None, config: UsersConfig) -> None:
        self._stage, self._user, self._group, self._model, self._config = stage, user, group, model, config
        self.user_id = f"u{user}"

    async def live(self) -> None:
        """Visit after visit, until cancelled."""
        stage, visit = self._stage, 0
        await asyncio.sleep(stage.rng.uniform(0, 2 * stage.world.config.away))
        while True:
            stage.world.begin_visit(self._user, stage.rng)
            await self._visit(f"{self.user_id}-{stage.start_ms}-{visit}")
            visit += 1
            await asyncio.sleep(time_away(stage.world, stage.rng))

    async def _visit(self, session_id: str) -> None:
        slate = await self._ask()
        while slate is not None and slate.item_ids:
            items = [item_number(item_id) for item_id in slate.item_ids]
            moment_at, policies = self._stage.now(), self._policies()
            looks, left = browse(self._stage.world, self._user, items, moment_at, self._stage.rng)
            views = (float(sum(look.viewed for look in looks)), float(len(looks)))
            self._stage.state.rates.add(Moment(self._user, self._group, views, *policies))
            slate = await self._tell(looks, slate, session_id, left)
        if slate is not None:  # an empty catalogue
            await asyncio.sleep(self._config.after_error)

    async def _ask(self) -> Slate | None:
        slate = await self._stage.client.recommend(self.user_id, self._config.list_length, self._model)
        if slate is None:
            await asyncio.sleep(self._config.after_error)
        return slate

    async def _tell(self, looks: list[Look], slate: Slate, session_id: str, left: bool) -> Slate | None:
        """Live through the looks in their time, sending what happened; the next list unless the user left."""
        config, offsets, sent_at = self._config, None, 0.0
        for first in range(0, len(looks), config.events_per_call):
            part = looks[first : first + config.events_per_call]
            await asyncio.sleep(part[-1].at - self._stage.now())
            sent_at = monotonic()
            offsets = await self._stage.client.send([self._event(look, slate, session_id) for look in part])
        if left:
            return None
        if offsets is not None and self._stage.rng.random() < config.measured:
            length = config.list_length
            found = await self._stage.client.recommend_covering(self.user_id, length, self._model, offsets, sent_at)
            if found is not None:
                self._stage.state.latencies_ms.append(1000 * found[1])
                return found[0]
            return None
        await asyncio.sleep(config.pause)
        return await self._ask()

    def _event(self, look: Look, slate: Slate, session_id: str) -> dict[str, object]:
        names = (self.user_id, slate.item_ids[look.position], session_id)
        event = look_event(look, names, slate.request_id, self._stage.start_ms)
        return {"event_id": f"{slate.request_id}-{look.position}", **event}

    def _policies(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Expected (views, looked at) of a random list and of the best one for this user now."""
        stage, world = self._stage, self._stage.world
        now, length = stage.now(), self._config.list_length
        chance = random_list(world, now, length, stage.rng)
        best = oracle_list(world, self._user, now, length)
        return expected_views(world, self._user, chance, now), expected_views(world, self._user, best, now)
