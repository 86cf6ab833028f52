# The greatest k found by blocks, against a whole sort.
from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.base import PAD
from models.candidates import best_items, first_places, top


@given(st.integers(0, 3000), st.integers(0, 400), st.integers(1, 2000), st.integers(0, 2**32 - 1))
def test_the_greatest_k_are_those_of_a_sort_whatever_their_number_and_ties(
    size: int, k: int, num_distinct: int, seed: int
) -> None:
    values = np.random.default_rng(seed).integers(num_distinct, size=size)
    places = top(values, k)
    assert len(set(places.tolist())) == len(places) == min(k, size)
    np.testing.assert_array_equal(values[places], np.sort(values)[::-1][:k])
    ties = np.diff(values[places]) == 0
    assert (np.diff(places)[ties] > 0).all()


@given(st.integers(0, 1500), st.integers(0, 200), st.integers(1, 500), st.integers(0, 2**32 - 1))
def test_with_an_order_the_greatest_k_do_not_depend_on_where_they_stand(
    size: int, k: int, num_distinct: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values, order = rng.integers(num_distinct, size=size), rng.permutation(size).astype(np.uint64)
    moved = rng.permutation(size)
    here, there = top(values, k, order), top(values[moved], k, order[moved])
    np.testing.assert_array_equal(order[here], order[moved][there])
    np.testing.assert_array_equal(here, np.lexsort((order, -values))[:k])


def test_one_query_and_many_find_the_same_items() -> None:
    scores = np.random.default_rng(0).standard_normal((3, 5000)).astype(np.float32)
    whole = best_items(scores, 60)
    for row in range(3):
        np.testing.assert_array_equal(best_items(scores[row : row + 1], 60)[0], whole[row])


def test_what_is_not_finite_is_no_item_and_takes_no_place_from_one() -> None:
    scores = np.full((2, 900), -np.inf, np.float32)
    scores[:, [7, 800]] = [2.0, 1.0]
    scores[:, 3::100] = np.nan
    scores[:, 5] = np.inf
    for rows in (scores, scores[:1]):
        best = best_items(rows, 4)
        np.testing.assert_array_equal(best, [[7, 800, PAD, PAD]] * len(rows))


def test_what_is_not_above_a_bound_is_no_item() -> None:
    scores = np.random.default_rng(0).standard_normal((3, 2000)).astype(np.float32)
    whole = best_items(scores, 60)
    kept = np.where(np.take_along_axis(scores, whole, axis=1) > 2, whole, PAD)
    assert (kept != PAD).any()
    assert (kept == PAD).any()
    np.testing.assert_array_equal(best_items(scores, 60, above=2), kept)
    for row in range(3):
        np.testing.assert_array_equal(best_items(scores[row : row + 1], 60, above=2)[0], kept[row])


@given(st.lists(st.integers(-2, 20), max_size=40))
def test_each_item_is_found_where_it_stands_first(items: list[int]) -> None:
    places = first_places(np.array(items, np.int64)).tolist()
    assert [items[place] for place in places] == list(dict.fromkeys(items))
    assert places == [items.index(item) for item in dict.fromkeys(items)]
