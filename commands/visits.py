# What a simulated user does with a list: looks at each item from the top, views or skips it, tires, leaves, comes back.
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from commands.world import World


class Look(NamedTuple):
    """One item that a user looked at; `at` is when they decided, in seconds of the world."""

    item: int
    position: int
    viewed: bool
    dwell_ms: int
    at: float


def browse(
    world: World, user: int, items: Sequence[int], now: float, rng: np.random.Generator
) -> tuple[list[Look], bool]:
    """Show a list to a user: what they looked at, and whether they left. Item -1 (unknown here) is skipped."""
    config, looks = world.config, list[Look]()
    for position, item in enumerate(items):
        chance = 0.0
        if item >= 0:
            chance = float(world.probabilities(user, np.array([item]), now)[0]) * world.attention(position)
            world.show(user, item, now)
        viewed = bool(rng.random() < chance)
        now += float(rng.exponential(config.view_pace if viewed else config.skip_pace))
        dwell = rng.uniform(2_500, 20_000) if viewed else rng.uniform(200, 1_800)
        looks.append(Look(item, position, viewed, int(dwell), now))
        if rng.random() < (config.quit_after_view if viewed else config.quit_after_skip):
            return looks, True
    return looks, False


def time_away(world: World, rng: np.random.Generator) -> float:
    """Seconds until a user who left comes back."""
    return float(rng.exponential(world.config.away))
