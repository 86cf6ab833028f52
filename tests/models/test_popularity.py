# Popularity against a loop that decays by hand, and its independence of where batches are cut.
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.popularity import Popularity, PopularityConfig
from tests.models.examples import START_MS, as_batches, as_bytes, learn, random_clicks

CLICKS = random_clicks(200)


@pytest.mark.parametrize("half_life_seconds", [math.inf, 3600.0, 90.0])
def test_scores_equal_counts_decayed_by_hand(half_life_seconds: float) -> None:
    model = Popularity(PopularityConfig(half_life_seconds))
    learn({"m": model}, as_batches(CLICKS, [50]))
    now = START_MS + 60_000 * len(CLICKS)
    counts = np.zeros(model.num_items)
    for number, (_, _, item, label) in enumerate(CLICKS):
        elapsed_seconds = 60.0 * (len(CLICKS) - number)
        counts[item] += label * (2.0 if item % 5 == 0 else 1.0) * 0.5 ** (elapsed_seconds / half_life_seconds)
    query = as_batches(CLICKS, [])[0].query
    query.now[:] = now
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(model.score(query)[0], np.log2(counts), rtol=1e-5)


def test_moments_far_apart_keep_their_precision() -> None:
    model = Popularity(PopularityConfig(600.0))
    learn({"m": model}, as_batches([(0, 0, 1, 1.0), (0, 0, 2, 1.0), (0, 0, 2, 1.0)], []))
    query = as_batches(CLICKS, [2])[0].query
    query.now[:] = [START_MS, START_MS + 10**9]
    scores = model.score(query)
    assert scores[0, 2] - scores[0, 1] == pytest.approx(1.15, abs=0.01)
    assert scores[1, 2] - scores[1, 1] == pytest.approx(1.15, abs=0.01)
    np.testing.assert_array_equal(model.top(5), [2, 1])


def test_a_skip_makes_an_item_known_but_not_popular() -> None:
    model = Popularity()
    learn({"m": model}, as_batches([(0, 0, 2, 1.0), (0, 0, 4, 0.0)], []))
    assert model.num_items == 5
    np.testing.assert_array_equal(model.top(5), [2])


def test_a_half_life_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="half_life_seconds = 0"):
        Popularity(PopularityConfig(0))


@given(st.lists(st.integers(1, 90), max_size=8))
def test_bytes_do_not_depend_on_where_batches_are_cut(sizes: list[int]) -> None:
    whole, cut = Popularity(PopularityConfig(600.0)), Popularity(PopularityConfig(600.0))
    learn({"m": whole}, as_batches(CLICKS, []))
    learn({"m": cut}, as_batches(CLICKS, sizes))
    assert as_bytes({"m": whole}) == as_bytes({"m": cut})


def test_the_top_follows_every_change_of_counts() -> None:
    model = Popularity()
    learn({"m": model}, as_batches([(0, 0, 2, 1.0), (0, 0, 4, 1.0), (0, 0, 2, 1.0)], []))
    np.testing.assert_array_equal(model.top(5), [2, 4])
    learn({"m": model}, as_batches([(0, 0, 4, 1.0)] * 3, []))
    np.testing.assert_array_equal(model.top(5), [4, 2])
    np.testing.assert_array_equal(model.top(1), [4])
