# The simulated world: equal seeds give equal worlds, and the policies stand in the order that their knowledge gives.
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from commands.history import simulated_events
from commands.policies import expected_views, oracle_list, random_list
from commands.visits import browse
from commands.world import World, WorldConfig

_SMALL = WorldConfig(users=40, items=200, horizon=300.0, history=100.0)


def _world(seed: int = 1, config: WorldConfig = _SMALL) -> World:
    return World(config, np.random.default_rng(seed))


@given(user=st.integers(0, 39), now=st.floats(0, 299), seed=st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_the_view_probability_of_every_item_is_a_probability(user: int, now: float, seed: int) -> None:
    world = _world(seed)
    chances = world.probabilities(user, np.arange(world.available(now)), now)
    assert ((chances > 0) & (chances < 1)).all()


def test_equal_seeds_give_equal_worlds_and_other_seeds_others() -> None:
    items, now = np.arange(150), 20.0
    first, again, other = (_world(seed).probabilities(3, items, now) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def _view_rate(policy: Callable[[World, int, float, np.random.Generator], NDArray[np.int64]]) -> tuple[float, float]:
    """(expected, experienced) view rate of a policy over the same 2,000 moments."""
    world, rng = _world(), np.random.default_rng(2)
    expected, experienced = np.zeros(2), np.zeros(2)
    for step in range(2000):
        user, now = step % _SMALL.users, step / 10
        items = policy(world, user, now, rng)
        expected += expected_views(world, user, items, now)
        looks, left = browse(world, user, items.tolist(), now, rng)
        experienced += (sum(look.viewed for look in looks), len(looks))
        if left:
            world.begin_visit(user, rng)
    return float(expected[0] / expected[1]), float(experienced[0] / experienced[1])


def _popular(world: World, user: int, now: float, rng: np.random.Generator) -> NDArray[np.int64]:  # noqa: ARG001
    return np.argsort(-world.quality[: world.available(now)])[:10]


def test_oracle_beats_quality_and_quality_beats_random_in_expectation_and_in_what_users_do() -> None:
    oracle = _view_rate(lambda world, user, now, _: oracle_list(world, user, now, 10))
    popular = _view_rate(_popular)
    chance = _view_rate(lambda world, _, now, rng: random_list(world, now, 10, rng))
    for which in (0, 1):
        assert oracle[which] > popular[which]
        assert oracle[which] > 1.5 * chance[which]


@pytest.mark.parametrize("policy", ["oracle", "random"])
def test_expected_views_are_what_users_do_on_average(policy: str) -> None:
    def choose(world: World, user: int, now: float, rng: np.random.Generator) -> NDArray[np.int64]:
        return oracle_list(world, user, now, 10) if policy == "oracle" else random_list(world, now, 10, rng)

    expected, experienced = _view_rate(choose)
    assert experienced == pytest.approx(expected, abs=0.02)  # 2,000 lists: standard error below 0.005


@given(user=st.integers(0, 39), now=st.floats(0, 299), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_no_random_list_is_expected_to_please_more_than_the_oracles(user: int, now: float, seed: int) -> None:
    world, rng = _world(), np.random.default_rng(seed)
    best = expected_views(world, user, oracle_list(world, user, now, 10), now)
    other = expected_views(world, user, random_list(world, now, 10, rng), now)
    assert best[0] / best[1] >= other[0] / other[1]


def test_expected_views_change_nothing() -> None:
    world = _world()
    items = random_list(world, 5.0, 10, np.random.default_rng(0))
    assert expected_views(world, 1, items, 5.0) == expected_views(world, 1, items, 5.0)


def test_an_item_that_was_shown_pleases_less_and_tires_its_cluster() -> None:
    world = _world()
    before = world.probabilities(1, np.arange(150), 5.0)
    world.show(1, 7, 5.0)
    after = world.probabilities(1, np.arange(150), 5.0)
    same = world.clusters[:150, 0] == world.clusters[7, 0]
    assert after[7] < 0.2 * before[7]
    assert (after[same] < before[same]).all()
    np.testing.assert_array_equal(after[~same], before[~same])


def test_items_arrive_over_time_and_are_freshest_at_first() -> None:
    world = _world()
    assert world.available(0.0) == _SMALL.items
    assert world.available(60.0) > world.available(0.0)
    item = np.array([world.available(10.0) - 1])
    assert world.probabilities(0, item, 10.0)[0] > world.probabilities(0, item, 299.0)[0] * 0.99


def test_tastes_drift() -> None:
    world = _world(config=WorldConfig(users=40, taste_life=20.0))
    changed = [not np.array_equal(world.tastes(user, 0.0), world.tastes(user, 200.0)) for user in range(40)]
    assert sum(changed) > 20


def test_users_look_less_closely_further_down() -> None:
    world = _world()
    assert [world.attention(position) for position in (0, 9)] == sorted((world.attention(9), 1.0), reverse=True)


@pytest.mark.parametrize("num_events", [1, 20_000])
def test_simulated_events_are_the_same_for_the_same_seed_and_all_in_the_past(num_events: int) -> None:
    first, again = (list(simulated_events(3, num_events, 1_700_000_000_000)) for _ in range(2))
    assert first == again
    assert len(first) == num_events
    assert max(timestamp for timestamp, _ in first) < 1_700_000_000_000
    assert list(simulated_events(4, num_events, 1_700_000_000_000)) != first
