# Events of simulated users who are shown half good, half random items: a history to begin with, or a data set.
from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from math import inf
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from commands.demo_items import item_id
from commands.policies import oracle_list, random_list
from commands.visits import Look, browse, time_away
from commands.world import World, WorldConfig

LIST_LENGTH = 10
_LEAST_PER_SECOND = 150.0  # events that the default world gives at least, once its users have come
_ALL_HAVE_COME = 60.0
_PAUSE = 0.3


class PastLook(NamedTuple):
    """A look, whose it was, and in which visit and list."""

    look: Look
    user: int
    visit: int
    request: int


def look_event(look: Look, names: tuple[str, str, str], request: str, start_ms: int) -> dict[str, object]:
    """The event of one look; `names` are user, item and session id, `start_ms` is when the world began."""
    user_id, item_name, session_id = names
    return {
        "type": "view" if look.viewed else "skip",
        "user_id": user_id,
        "item_id": item_name,
        "timestamp": start_ms + int(1000 * look.at),
        "dwell_ms": look.dwell_ms,
        "session_id": session_id,
        "request_id": request,
        "position": look.position,
    }


def past_events(
    world: World, users: range, looks: int, start_ms: int, rng: np.random.Generator
) -> list[tuple[int, bytes]]:
    """What other users did before the world's time 0, about `looks` events each: (milliseconds, JSON), by time."""
    due = zip((-rng.uniform(0.0, world.config.history, len(users))).tolist(), users, strict=True)
    past = sorted(_looks(world, due, looks, rng), key=lambda each: each.look.at)
    return list(_encoded((each for each in past if each.look.at < 0), start_ms))


def simulated_events(seed: int, num_events: int, end_ms: int) -> Iterator[tuple[int, bytes]]:
    """(timestamp in milliseconds, JSON) of `num_events` events of users who keep coming back, all of before
    `end_ms`."""
    rng = np.random.default_rng(seed)
    world = World(WorldConfig(), rng)
    due = [(time_away(world, rng), user) for user in range(world.config.users)]
    start_ms = end_ms - int(1000 * (_ALL_HAVE_COME + num_events / _LEAST_PER_SECOND))
    return _encoded(islice(_looks(world, due, inf, rng), num_events), start_ms)


def _encoded(looks: Iterable[PastLook], start_ms: int) -> Iterator[tuple[int, bytes]]:
    for look, user, visit, request in looks:
        names = (f"u{user}", item_id(look.item), f"u{user}-{visit}")
        event = look_event(look, names, f"u{user}-{visit}-{request}", start_ms)
        yield start_ms + int(1000 * look.at), orjson.dumps(event)


def _looks(world: World, due: Iterable[tuple[float, int]], most: float, rng: np.random.Generator) -> Iterator[PastLook]:
    """Users browse from when they are due, visit after visit, until they have looked at `most` items."""
    waiting = [(at, user, 0, 0) for at, user in due]
    heapq.heapify(waiting)
    looked: Counter[int] = Counter()
    while waiting:
        now, user, visit, request = heapq.heappop(waiting)
        if request == 0:
            world.begin_visit(user, rng)
        looks, left = browse(world, user, _mixed_list(world, user, now, rng).tolist(), now, rng)
        for look in looks:
            yield PastLook(look, user, visit, request)
        looked[user] += len(looks)
        if looked[user] < most:
            again = looks[-1].at + (time_away(world, rng) if left else _PAUSE)
            heapq.heappush(waiting, (again, user, visit + left, 0 if left else request + 1))


def _mixed_list(world: World, user: int, now: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """About half of the places hold the best items, the others random ones [at most LIST_LENGTH]."""
    best, other = oracle_list(world, user, now, LIST_LENGTH), random_list(world, now, LIST_LENGTH, rng)
    chosen = np.where(rng.random(len(best)) < 0.5, best, other)
    return np.asarray(chosen[np.sort(np.unique(chosen, return_index=True)[1])], np.int64)
