# Ranks of targets, ties counted half.
from __future__ import annotations

from operator import eq, gt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.rank import target_ranks


def ranks(scores: list[list[float]], targets: list[int], excluded: list[list[int]] | None = None) -> list[float]:
    left_out = None if excluded is None else np.array(excluded, np.int64)
    found: list[float] = target_ranks(np.array(scores, np.float32), np.array(targets, np.int64), left_out).tolist()
    return found


def test_a_constant_scorer_hits_ten_of_n_times() -> None:
    num_items = 1000
    scores = np.zeros((num_items, num_items), np.float32)
    assert set(target_ranks(scores, np.arange(num_items)).tolist()) == {1 + 999 / 2}
    noise = np.random.default_rng(0).random((num_items, num_items)).astype(np.float32)
    hits = (target_ranks(noise, np.arange(num_items)) <= 10).mean()
    assert hits == pytest.approx(10 / num_items, abs=0.01)


def test_ties_count_half() -> None:
    assert ranks([[3.0, 1.0, 1.0, 1.0, 0.0]], [1]) == [3.0]


def test_excluded_items_are_not_ranked_but_the_target_is() -> None:
    assert ranks([[4.0, 3.0, 2.0, 2.0]], [2], [[0, 0, 3, 2]]) == [2.0]
    assert ranks([[4.0, 3.0, 2.0, 2.0]], [2], [[-1, -1, 9, 3]]) == [3.0]


def test_scores_that_are_not_finite_sink() -> None:
    assert ranks([[np.nan, 1.0, np.inf, -np.inf]], [1]) == [1.0]
    assert ranks([[np.nan, 1.0, np.inf, -np.inf]], [0]) == [3.0]


def test_an_unknown_target_has_no_rank() -> None:
    assert ranks([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], [2, 1, -1], [[1], [1], [1]]) == [np.inf, 1.0, np.inf]
    assert target_ranks(np.zeros((1, 0), np.float32), np.array([0])).tolist() == [np.inf]


def naive(scores: NDArray[np.float32], targets: NDArray[np.int64], excluded: NDArray[np.int64]) -> list[float]:
    found = []
    for row, target in enumerate(targets.tolist()):
        if target >= scores.shape[1]:
            found.append(np.inf)
            continue
        values = np.where(np.isfinite(scores[row]), scores[row], -np.inf)
        others = [values[item] for item in range(len(values)) if item != target and item not in excluded[row]]
        above, equal = (sum(map(compare, others, [values[target]] * len(others))) for compare in (gt, eq))
        found.append(1 + above + equal / 2)
    return found


@given(st.integers(0, 2**32 - 1))
def test_ranks_equal_those_of_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, size=(6, 9)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = rng.choice([np.nan, np.inf, -np.inf])
    targets, excluded = rng.integers(0, 11, size=6), rng.integers(-1, 11, size=(6, 4))
    assert target_ranks(scores, targets, excluded).tolist() == naive(scores, targets, excluded)
