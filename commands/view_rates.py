# View rates by group with intervals bootstrapped by user, beside what a random and an oracle policy would have had.
from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

GROUPS = ("learned", "control", "random", "oracle")


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


class Moment(NamedTuple):
    """One list that a user asked for: (views, items looked at) of it and of the two known policies."""

    user: int
    group: str  # learned or control
    seen: tuple[float, float]
    random: tuple[float, float]  # expected, for a random list at this moment
    oracle: tuple[float, float]  # expected, for the best list at this moment


class ViewRates:
    """Sums moments by user. A rate is views over items looked at, of all a group's users; users are what is resampled.

    Random and oracle are taken over the moments of both groups.
    """

    def __init__(self) -> None:
        self._sums: dict[str, dict[int, NDArray[np.float64]]] = {group: {} for group in GROUPS}

    def add(self, moment: Moment) -> None:
        """Take in one list."""
        for group, pair in ((moment.group, moment.seen), ("random", moment.random), ("oracle", moment.oracle)):
            total = self._sums[group].setdefault(moment.user, np.zeros(2))
            total += pair

    def intervals(self, draws: int, rng: np.random.Generator) -> dict[str, Interval]:
        """The interval of each of GROUPS, from `draws` resamples of its users; NaN where a group has no list."""
        return {group: _interval(list(users.values()), draws, rng) for group, users in self._sums.items()}


def _interval(users: list[NDArray[np.float64]], draws: int, rng: np.random.Generator) -> Interval:
    if not users:
        return Interval(float("nan"), float("nan"), float("nan"))
    pairs = np.array(users)  # [users, (views, looked at)]
    weights = rng.multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), draws)  # [draws, users]
    views, looked = (weights @ pairs).T
    low, high = np.quantile(views / np.maximum(looked, 1e-9), [0.025, 0.975])
    views_all, looked_all = pairs.sum(axis=0)
    return Interval(float(views_all / max(looked_all, 1e-9)), float(low), float(high))
