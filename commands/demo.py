# The demo: simulated users who really use the HTTP API, half of them a control group, and a live panel.
from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from math import isfinite
from time import monotonic, time

import httpx
import numpy as np
from rich.console import Console
from rich.live import Live

from commands.access import client_headers
from commands.api import reaches
from commands.demo_client import DemoClient
from commands.demo_items import item_document
from commands.demo_spotlight import keep_spotlight
from commands.demo_state import DemoState
from commands.demo_users import SimulatedUser, Stage, UsersConfig
from commands.errors import CommandError
from commands.history import past_events
from commands.panel import Reading, panel
from commands.send import SendConfig, send
from commands.settings import Settings
from commands.system import System, api_url
from commands.view_rates import ViewRates
from commands.world import World, WorldConfig


@dataclass(frozen=True)
class DemoConfig:
    """The demo's size; times are seconds.

    Past users give the system a history before the others come, as an app that runs already has one. Which
    half-life serves the control group hardly matters: 10 s, 30 s, 1, 2, 5, 10 min, 1 h and infinity gave view rates of
    .186 .200 .186 .185 .184 .188 .180 .182 (8 seeds of this world, standard error about .006).
    """

    past_users: int = 1000
    past_looks: int = 40  # events of each
    past_speed: float = 45.0  # multiple of real time that the history is sent at: about 2,000 events per second
    control: str = "recent"  # what the control group is served by: popularity with a half-life of 1 h
    warm_up: float = 20.0  # lists of this time do not count: hardly any user has come back yet
    draws: int = 1000  # of the bootstrap
    refresh: float = 1.0  # between two panels
    learn_patience: float = 180.0  # until the history has to be learned


class Demo:
    """Simulated users on a running system: `prepare`, `run` until cancelled, then `summary`."""

    def __init__(self, settings: Settings, system: System, console: Console, config: DemoConfig | None = None) -> None:
        self._system, self._config, self._url = system, config or DemoConfig(), api_url(settings)
        self._settings = settings
        self._state, self._rng = DemoState(), np.random.default_rng(settings.seed)
        live = WorldConfig().users
        # One more user is the panel's own, those after it are of the past.
        users = replace(WorldConfig(), users=live + 1 + self._config.past_users)
        self._world, self._live = World(users, self._rng), range(live)
        self._console, self._is_warm = console, False
        self._began, self._start_ms = monotonic(), int(time() * 1000)

    def now(self) -> float:
        """Seconds of the world, which began when this was made."""
        return monotonic() - self._began

    async def prepare(self) -> None:
        """Put the catalogue, send the history and wait until it is learned."""
        async with self._http() as http:
            client = DemoClient(http, self._state)
            if not await self._put_items(client, 0, self._world.available(self.now())):
                raise CommandError(f"the API does not take the catalogue: {next(iter(self._state.errors))}")
            past = range(len(self._live) + 1, self._world.config.users)
            self._console.print("Before the users come: a history of others, as an app that runs has one")
            args = (self._world, past, self._config.past_looks, self._start_ms, self._rng)
            events = await asyncio.to_thread(past_events, *args)
            how = SendConfig(self._config.past_speed, headers=client_headers(self._settings))
            sent = await send(self._url, events, len(events), how)
            self._state.events += sent.accepted
            if self._system.learning:
                await self._wait_until_learned(client, sent.offsets)

    async def run(self) -> None:
        """Simulated users and the panel, until cancelled."""
        async with self._http() as http:
            stage = Stage(self._world, DemoClient(http, self._state), self._state, self.now, self._start_ms, self._rng)
            async with asyncio.TaskGroup() as tasks:
                for user in self._live:
                    group = "control" if user % 2 else "learned"
                    model = self._config.control if group == "control" else None
                    tasks.create_task(SimulatedUser(stage, user, group, model, UsersConfig()).live())
                tasks.create_task(keep_spotlight(stage, len(self._live)))
                tasks.create_task(self._publish(stage.client))
                tasks.create_task(self._show())
                tasks.create_task(self._warm_up())

    async def summary(self) -> dict[str, object]:
        """The JSON summary. View rates count lists after the warm-up; random and oracle had the same moments."""
        intervals = self._state.rates.intervals(self._config.draws, self._rng)
        for what, count in self._state.errors.most_common(10):
            self._console.print(f"error, {count} times: {what}")
        return {
            "events": self._state.events,
            "versions": self._state.model_version,
            "event_to_recommendation_ms": self._state.latency_ms(),
            "shares": _rounded(self._state.spotlight.shares if self._state.spotlight else {}),
            "view_rate": {group: _rounded(interval._asdict()) for group, interval in intervals.items()},
            "errors": sum(self._state.errors.values()) + sum(self._system.restarts.values()),
        }

    def _http(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        headers = client_headers(self._settings)
        return httpx.AsyncClient(base_url=self._url, headers=headers, timeout=10.0, limits=limits)

    async def _put_items(self, client: DemoClient, first: int, last: int) -> bool:
        items = [item_document(self._world, item, self._start_ms) for item in range(first, last)]
        return not items or await client.put_items(items) is not None

    async def _wait_until_learned(self, client: DemoClient, offsets: dict[str, int]) -> None:
        deadline = monotonic() + self._config.learn_patience
        while monotonic() < deadline:
            model = await client.model()
            if model is not None and reaches(model.learned_offsets, offsets):
                return
            await asyncio.sleep(0.2)
        patience = f"{self._config.learn_patience:.0f} s"
        raise CommandError(f"the history is not learned after {patience}; the home's run/learn.log may tell why")

    async def _publish(self, client: DemoClient) -> None:
        """Put new items when they arrive in the world."""
        known = self._world.available(self.now())
        while True:
            await asyncio.sleep(1.0)
            there = self._world.available(self.now())
            if await self._put_items(client, known, there):  # else they are tried again
                known = there

    async def _warm_up(self) -> None:
        await asyncio.sleep(self._config.warm_up)
        self._state.rates, self._is_warm = ViewRates(), True

    async def _show(self) -> None:
        events, at = self._state.events, self.now()
        rng = np.random.default_rng(0)  # its own, so that a panel changes nothing in the world
        with Live(console=self._console, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(self._config.refresh)
                now, counted = self.now(), "since the warm-up" if self._is_warm else "warming up"
                rate = (self._state.events - events) / (now - at)
                intervals = self._state.rates.intervals(200, rng)
                restarts = sum(self._system.restarts.values())
                if self._console.is_terminal:
                    live.update(panel(self._state, Reading(now, rate, intervals, counted, restarts)), refresh=True)
                events, at = self._state.events, now


def _rounded(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: round(number, 4) if isfinite(number) else None for name, number in numbers.items()}  # JSON has no NaN
