# View rates and their intervals, on cases whose answer is known.
from __future__ import annotations

import math

import numpy as np
import pytest

from commands.view_rates import GROUPS, Moment, ViewRates


def _moment(user: int, group: str, views: float) -> Moment:
    return Moment(user, group, (views, 10.0), (1.0, 10.0), (8.0, 10.0))


def test_rates_are_views_over_items_looked_at_and_policies_share_the_moments() -> None:
    rates = ViewRates()
    for user in range(50):
        rates.add(_moment(user, "learned", 6.0))
        rates.add(_moment(100 + user, "control", 2.0))
    intervals = rates.intervals(200, np.random.default_rng(1))
    assert set(intervals) == set(GROUPS)
    means = {group: interval.mean for group, interval in intervals.items()}
    assert means == pytest.approx({"learned": 0.6, "control": 0.2, "random": 0.1, "oracle": 0.8})
    assert intervals["learned"].low == pytest.approx(0.6)  # all users alike: no spread


def test_intervals_are_as_wide_as_users_differ_not_as_many_as_their_lists() -> None:
    rates = ViewRates()
    rng = np.random.default_rng(1)
    for user in range(200):
        views = float(rng.integers(0, 11))
        for _ in range(30):  # the same user again and again tells nothing new about users
            rates.add(_moment(user, "learned", views))
    interval = rates.intervals(2000, np.random.default_rng(2))["learned"]
    spread = math.sqrt(0.1 / 200)  # variance of a uniform draw from 0, .1 .. 1 is 0.1
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_a_group_without_lists_has_no_rate() -> None:
    assert math.isnan(ViewRates().intervals(10, np.random.default_rng(1))["control"].mean)
