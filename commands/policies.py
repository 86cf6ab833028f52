# Policies whose view rate is known because they know the truth: oracle and random.
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from commands.world import World


def oracle_list(world: World, user: int, now: float, length: int) -> NDArray[np.int64]:
    """The best list by true probability: greedy, counting how items of one list tire [length]."""
    items = np.arange(world.available(now))
    chances = world.probabilities(user, items, now)
    clusters, load = world.clusters[items, 0], 1.0 + world.config.fatigue * world.fatigue(user, now)
    chosen = np.empty(min(length, len(items)), np.int64)
    for position in range(len(chosen)):
        best = chosen[position] = int(np.argmax(chances))
        cluster = clusters[best]
        heavier = 1.0 + world.config.fatigue / load[cluster]
        chances[clusters == cluster] /= heavier
        load[cluster] *= heavier
        chances[best] = -1.0
    return chosen


def random_list(world: World, now: float, length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Uniform over the items that exist, without repeats [length]."""
    available = world.available(now)
    return rng.choice(available, min(length, available), replace=False)


def expected_views(world: World, user: int, items: NDArray[np.int64], now: float) -> tuple[float, float]:
    """Expected (views, items looked at) of a list served now; no dice are thrown and the world does not change."""
    config, tired = world.config, world.fatigue(user, now)
    chances = world.probabilities(user, items, now)
    reach, views, looked = 1.0, 0.0, 0.0
    for position, (item, chance) in enumerate(zip(items.tolist(), chances.tolist(), strict=True)):
        cluster = int(world.clusters[item, 0])
        before = int(np.sum(world.clusters[items[:position], 0] == cluster))
        load = 1.0 + config.fatigue * tired[cluster]
        view = chance * world.attention(position) * load / (load + config.fatigue * before)
        looked += reach
        views += reach * view
        reach *= 1.0 - view * config.quit_after_view - (1.0 - view) * config.quit_after_skip
    return views, looked
