# Co-visitation against a loop, its independence of cuts, and the bound of its rows.
from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.covisitation import Covisitation, CovisitationConfig
from models.tables import CellTable
from tests.models.examples import as_batches, as_bytes, learn, random_clicks

CLICKS = random_clicks(240)
CONFIG = CovisitationConfig(window=3, max_cells=4)


def test_counts_and_scores_equal_those_of_a_loop() -> None:
    model = Covisitation(CovisitationConfig(window=3, fallback=0.0))
    batches = as_batches(CLICKS, [64] * 10)
    learn({"m": model}, batches)
    wanted: dict[int, list[int]] = defaultdict(list)
    expected: dict[tuple[int, int], float] = defaultdict(float)
    takings: dict[int, float] = defaultdict(float)
    for _, session, item, label in CLICKS:
        if label:
            weight = 2.0 if item % 5 == 0 else 1.0
            takings[item] += weight
            for place, earlier in enumerate(reversed(wanted[session][-3:]), 1):
                if earlier != item:
                    share = round(1024 * place**-0.5) / 1024
                    expected[earlier, item] += weight * share
                    expected[item, earlier] += weight * share
            wanted[session].append(item)
    found = {(row, column): count for row, cells in model.cells.rows.items() for column, count in cells.items()}
    assert found == expected
    query = batches[-1].query
    scores = model.score(query)
    newest = [item for item in model.newest(query)[-1].tolist() if item >= 0]
    by_hand = [
        sum(0.7**age * expected[row, item] / (takings[row] * takings[item]) ** 0.25 for age, row in enumerate(newest))
        if takings[item]
        else 0.0
        for item in range(scores.shape[1])
    ]
    np.testing.assert_allclose(scores[-1], by_hand, rtol=1e-5)
    some = np.array([3, 0, 10_000, -1, 7])
    np.testing.assert_allclose(model.score(query, some)[-1], [by_hand[3], by_hand[0], 0.0, 0.0, by_hand[7]], rtol=1e-5)


def test_what_follows_in_a_session_comes_first_and_recent_popularity_orders_the_rest() -> None:
    clicks = [(user, user, item, 1.0) for user, item in ((0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (4, 1), (4, 5))]
    model = Covisitation()
    learn({"m": model}, as_batches(clicks[:-1], []))
    scores = model.score(as_batches(clicks, [6])[1].query)[0]
    assert np.argsort(-scores).tolist()[:1] == [2]
    assert scores[3] > scores[4] > scores[0] == 0.0
    assert scores[2] > 0.5 > 1e-6 >= scores[3]


def test_a_skipped_item_starts_no_pair_and_joins_none() -> None:
    model = Covisitation()
    learn({"m": model}, as_batches([(0, 0, 1, 1.0), (0, 0, 2, 0.0), (0, 0, 3, 1.0)], []))
    assert model.cells.rows == {1: {3: 1.0}, 3: {1: 1.0}}


@given(st.lists(st.integers(1, 90), max_size=8))
def test_bytes_do_not_depend_on_where_batches_are_cut(sizes: list[int]) -> None:
    whole, cut = Covisitation(CONFIG), Covisitation(CONFIG)
    learn({"m": whole}, as_batches(CLICKS, []))
    learn({"m": cut}, as_batches(CLICKS, sizes))
    assert as_bytes({"m": whole}) == as_bytes({"m": cut})


def test_a_full_row_keeps_its_largest_cells() -> None:
    table = CellTable(max_cells=2)
    for column, amount in ((5, 3.0), (6, 1.0), (7, 2.0), (8, 2.0), (9, 1.0)):
        table.add(0, column, amount)
    assert table.rows[0] == {5: 3.0, 7: 2.0}
    assert table.take_touched() == {0: {5, 6, 7, 8, 9}}
    columns, counts = table.cells(0)
    assert dict(zip(columns.tolist(), counts.tolist(), strict=True)) == {5: 3.0, 7: 2.0}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 3)), max_size=200), st.integers(4, 30))
def test_cells_stay_within_their_bound_and_the_table_knows_how_many_there_are(
    additions: list[tuple[int, int, int]], bound: int
) -> None:
    table = CellTable(max_cells=4, max_total=bound)
    for row, column, amount in additions:
        table.add(row, column, float(amount))
        assert table.num_cells == sum(map(len, table.rows.values())) <= bound
        assert all(table.rows.values())


def test_rows_lose_their_smaller_half_in_turn_and_those_who_follow_hear_of_it() -> None:
    table, other = CellTable(max_total=6), CellTable()
    for row, column, amount in ((0, 1, 3.0), (0, 2, 1.0), (1, 0, 3.0), (1, 2, 2.0), (1, 3, 1.0), (2, 0, 1.0)):
        table.add(row, column, amount)
    table.add(2, 1, 1.0)
    assert table.rows == {0: {1: 3.0}, 1: {0: 3.0, 2: 2.0, 3: 1.0}, 2: {0: 1.0, 1: 1.0}}
    table.add(2, 3, 1.0)
    assert table.rows == {0: {1: 3.0}, 1: {0: 3.0}, 2: {0: 1.0, 1: 1.0, 3: 1.0}}
    for row, columns in table.take_touched().items():
        ordered = np.array(sorted(columns))
        other.load(row, ordered, np.array([table.rows.get(row, {}).get(column, 0.0) for column in ordered.tolist()]))
    assert other.rows == table.rows
    assert other.num_cells == table.num_cells


def test_a_bounded_table_that_was_saved_goes_on_where_it_stood() -> None:
    rng = np.random.default_rng(2)
    steady, resumed = Covisitation(), Covisitation()
    for model in (steady, resumed):
        model.cells.max_total = 40
    for row, column in rng.integers(0, 30, (300, 2)).tolist():
        steady.cells.add(row, column, 1.0)
    for row, cells in steady.cells.rows.items():
        resumed.cells.load(row, np.array(list(cells)), np.array(list(cells.values())))
    resumed.load_training_state(steady.training_state())
    for row, column in rng.integers(0, 30, (300, 2)).tolist():
        steady.cells.add(row, column, 1.0)
        resumed.cells.add(row, column, 1.0)
    assert resumed.cells.rows == steady.cells.rows
