# Figures by user: their means are the figures, and their errors those of a bootstrap over users.
from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from stream.protocols.by_user import auc, auc_within, ratio

RNG = np.random.default_rng(0)


def error(values: NDArray[np.float64]) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / len(values) ** 0.5)


def counted_auc(scores: NDArray[np.float64], wanted: NDArray[np.bool_]) -> float:
    """Pair by pair."""
    pairs = scores[wanted][:, None] - scores[~wanted][None, :]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_a_ratio_of_sums_is_the_mean_and_its_error_that_of_a_bootstrap() -> None:
    sizes = RNG.integers(1, 20, 400).astype(float)
    amounts = RNG.binomial(sizes.astype(int), RNG.beta(2, 3, 400)).astype(float)
    values = ratio(amounts, sizes)
    assert values.mean() == pytest.approx(amounts.sum() / sizes.sum())
    drawn = RNG.integers(400, size=(2000, 400))
    assert error(values) == pytest.approx((amounts[drawn].sum(1) / sizes[drawn].sum(1)).std(), rel=0.1)
    assert ratio(np.zeros(3), np.zeros(3)).tolist() == [0, 0, 0]


def test_auc_is_counted_pair_by_pair_with_ties_half_and_its_error_is_that_of_a_bootstrap() -> None:
    users = np.sort(RNG.integers(60, size=600))
    wanted = RNG.random(600) < RNG.beta(2, 2, 60)[users]
    scores = np.round(RNG.normal(size=600) + wanted + RNG.normal(size=60)[users], 1)
    values = auc(scores, wanted, users, 60)
    assert values.mean() == pytest.approx(counted_auc(scores, wanted))
    rows = [np.flatnonzero(users == user) for user in range(60)]
    drawn = [np.concatenate([rows[user] for user in RNG.integers(60, size=60)]) for _ in range(400)]
    assert error(values) == pytest.approx(np.std([counted_auc(scores[own], wanted[own]) for own in drawn]), rel=0.15)


def test_auc_within_users_knows_nothing_of_what_differs_between_them() -> None:
    users = np.repeat([0, 1, 2], 4)
    wanted = np.array([1, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1], np.bool_)
    scores = np.array([2.0, 1, 2, 1, 9, 8, 9, 9, 0, 0, 0, 0])
    assert auc_within(scores, wanted, users, 3).mean() == pytest.approx((4 * 1.0 + 4 * 0.75) / 8)
    assert auc_within(scores + 100 * users, wanted, users, 3).mean() == pytest.approx(0.875)
    assert auc(np.zeros(12), wanted, users, 3).mean() == 0.5


@pytest.mark.parametrize("of", [auc, auc_within])
def test_one_kind_alone_gives_numbers_nevertheless(of: object) -> None:
    assert callable(of)
    assert np.isfinite(of(np.ones(3), np.ones(3, np.bool_), np.array([0, 0, 1]), 2)).all()
