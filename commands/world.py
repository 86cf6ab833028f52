# The simulated world: hidden clusters, items that arrive and age, users whose tastes drift. No model sees it.
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class WorldConfig:
    """How hard the world is. Times are seconds of the world, rates are per second; logits add up to a view."""

    users: int = 320
    items: int = 1200  # there from the start, published over the `history` before it
    arrivals: float = 1.0  # new items
    history: float = 900.0
    horizon: float = 3600.0  # arrivals stop then, and tastes repeat
    clusters: int = 36
    genre_size: int = 6  # clusters of a genre, which share taste
    kin_taste: float = 0.95  # taste for the other clusters of a liked one's genre
    interests: int = 2  # clusters that a user likes at a time; each visit is in the mood for one of them
    side_taste: float = 0.3  # taste for the interests that the mood is not on
    taste_life: float = 400.0  # mean time until an interest is replaced by another
    popular_clusters: float = 0.3  # exponent of the Zipf law by which interests are drawn
    base_logit: float = -4.0  # a view of what does not interest: 2 %
    taste_logit: float = 5.5  # a view of what interests: 82 %
    second_cluster: float = 0.2  # how much of the taste for its second cluster an item gets
    quality_spread: float = 0.25
    fresh_logit: float = 0.5  # at publication; fades by `fresh_life`
    fresh_life: float = 60.0
    position_loss: float = 0.02  # of attention, a position
    fatigue: float = 0.005  # a recently shown item of the same cluster
    fatigue_life: float = 10.0
    seen_again: float = 0.1  # factor for an item shown before
    quit_after_skip: float = 0.03  # probability of ending the visit
    quit_after_view: float = 0.005
    skip_pace: float = 0.25  # mean time on a skipped item; a second here stands for about ten of a real feed
    view_pace: float = 0.5
    away: float = 45.0  # mean time between two visits


class World:
    """Users, items and the true view probability of any user, item, position and time. Times are seconds since start.

    Item i exists once `published[i] <= now`. Everything is drawn at construction from the generator alone, so equal
    seeds give equal worlds; `show` is the only method that changes it (what a user saw, what tires them).
    """

    def __init__(self, config: WorldConfig, rng: np.random.Generator) -> None:
        self.config = config
        later = int(config.arrivals * config.horizon)
        self.num_items = config.items + later
        before = -np.sort(rng.uniform(0.0, 2 * config.history, config.items))[::-1]
        self.published: NDArray[np.float64] = np.concatenate([before, np.arange(1, later + 1) / config.arrivals])
        self.quality = rng.normal(0.0, config.quality_spread, self.num_items)
        self.clusters = rng.integers(0, config.clusters, (self.num_items, 2))  # first and second cluster of an item
        popularity = 1.0 / np.arange(3, config.clusters + 3) ** config.popular_clusters
        changes = int(3 * config.horizon / config.taste_life) + 8
        shape = (config.users, config.interests, changes)
        self._changes = np.cumsum(rng.exponential(config.taste_life, shape), axis=2)
        self._interests = rng.choice(config.clusters, shape, p=popularity / popularity.sum())
        self._mood = rng.integers(0, config.interests, config.users)  # which interest the visit is about
        self._seen = np.zeros((config.users, self.num_items), np.bool_)
        self._fatigue = np.zeros((config.users, config.clusters))
        self._fatigue_at = np.zeros(config.users)

    def available(self, now: float) -> int:
        """How many items exist: those numbered below it."""
        return int(np.searchsorted(self.published, now, side="right"))

    def tastes(self, user: int, now: float) -> NDArray[np.float64]:
        """The user's taste for every cluster at a time, 0 to 1 [clusters]."""
        tastes = np.zeros(self.config.clusters)
        for slot, (changes, interests) in enumerate(zip(self._changes[user], self._interests[user], strict=True)):
            cluster = interests[np.searchsorted(changes, now % self.config.horizon) % len(interests)]
            taste = 1.0 if slot == self._mood[user] else self.config.side_taste
            genre = slice(first := cluster - cluster % self.config.genre_size, first + self.config.genre_size)
            tastes[genre] = np.maximum(tastes[genre], taste * self.config.kin_taste)
            tastes[cluster] = max(tastes[cluster], taste)
        return tastes

    def begin_visit(self, user: int, rng: np.random.Generator) -> None:
        """The user comes back, in the mood for one of their interests."""
        self._mood[user] = rng.integers(0, self.config.interests)

    def probabilities(self, user: int, items: NDArray[np.int64], now: float) -> NDArray[np.float64]:
        """View probability of items [M] at the top position, given what the user was shown so far [M]."""
        config, tastes = self.config, self.tastes(user, now)
        first, second = self.clusters[items].T
        taste = np.minimum(tastes[first] + config.second_cluster * tastes[second], 1.0)
        age = np.maximum(now - self.published[items], 0.0)
        logit = config.base_logit + config.taste_logit * taste + self.quality[items]
        logit += config.fresh_logit * np.exp(-age / config.fresh_life)
        tired = 1.0 + config.fatigue * self.fatigue(user, now)[first]
        again = np.where(self._seen[user, items], config.seen_again, 1.0)
        return np.asarray(again / tired / (1.0 + np.exp(-logit)))

    def attention(self, position: int) -> float:
        """Factor of the view probability at a position (0 is the top)."""
        return max(1.0 - self.config.position_loss * position, 0.1)

    def fatigue(self, user: int, now: float) -> NDArray[np.float64]:
        """Recently shown items by cluster, decayed [clusters]."""
        elapsed = max(now - self._fatigue_at[user], 0.0)
        return np.asarray(self._fatigue[user] * np.exp(-elapsed / self.config.fatigue_life))

    def show(self, user: int, item: int, now: float) -> None:
        """The user looked at an item: it is seen, and its cluster tires."""
        self._fatigue[user] = self.fatigue(user, now)
        self._fatigue_at[user] = max(now, self._fatigue_at[user])
        self._fatigue[user, self.clusters[item, 0]] += 1.0
        self._seen[user, item] = True
