# What the blend looks at: how a skip speaks against what is like it.
from __future__ import annotations

import numpy as np
import pytest

from models.base import PAD
from models.features import Likeness, skipped
from models.tables import RowTable
from models.transformer import Transformer, TransformerConfig
from tests.models.examples import one_query

ONE = 1 / 2.71  # of three skips in a row


def features(items: list[int], labels: list[float]) -> list[float]:
    """Of items 1, 5 and PAD; items 0 to 3 are of one kind and 4 to 7 of another."""
    transformer = Transformer(np.random.default_rng(0), TransformerConfig(width=2))
    transformer.items.load(np.arange(8), np.repeat(np.eye(2, dtype=np.float32), 4, axis=0))
    centred, plain = (Likeness(transformer.items, 2, is_centred) for is_centred in (True, False))
    query = one_query(items, labels)
    found: list[float] = skipped(query, np.array([[1, 5, PAD]]), centred, plain)[0].tolist()
    return found


def test_nothing_is_like_a_skip_where_nothing_was_skipped() -> None:
    assert features([0, 4], [1, 1]) == [0, 0, 0]


def of_kind(total: float) -> object:
    """About what a cumulative sum adds."""
    return pytest.approx(min(total, 2) ** 6, rel=1e-4)


def test_what_is_like_the_skip_is_and_what_is_not_is_not() -> None:
    assert features([0], [0]) == [pytest.approx(8 + ONE**6), 0, 0]
    assert features([99], [0]) == [0, 0, 0]  # an item that has no vector yet


def test_the_more_is_known_of_a_user_the_less_one_skip_says() -> None:
    assert features([4, 5, 6, 0], [1, 1, 1, 0])[0] == pytest.approx(8 * 0.7 + ONE**6)
    assert features([4] * 30 + [0], [1.0] * 30 + [0.0])[0] == pytest.approx(ONE**6)


def test_three_skips_in_a_row_say_very_much_more_than_one_and_one_less_as_it_is_longer_ago() -> None:
    assert features([0, 2, 3], [0, 0, 0])[0] == pytest.approx(8 + 1)
    assert features([0, 2, 3, 4], [0, 0, 0, 1])[0] == of_kind(0.9)
    assert features([0, 2, 4], [0, 0, 1])[0] == of_kind(0.9 * 1.9 * ONE)
    assert features([1, 2, 3, 2, 0, 1, 2, 3, 4], [0.0] * 8 + [1])[0] == of_kind(0.9 * ONE * (1 - 0.9**8) / 0.1)


def test_who_takes_of_the_same_kind_is_not_tired_of_it_but_may_become_so() -> None:
    assert features([0, 2, 3, 0], [0, 0, 0, 1])[0] == of_kind(0.1)
    assert features([0, 2, 0], [0, 0, 1])[0] == 0
    known = 8 * 0.8
    assert features([2, 3, 0], [1, 1, 0])[0] == pytest.approx(
        known + ONE**6
    )  # what was before tells of no change since


def test_entries_beyond_the_newest_ten_say_nothing() -> None:
    assert features([0] + [4] * 10, [0.0] + [1.0] * 10) == [0, 0, 0]


def test_what_all_items_have_in_common_tells_nothing_of_kinds() -> None:
    table = RowTable(3)
    kinds = np.repeat(np.array([[1, 0, 9], [0, 1, 9]], np.float32), 3, axis=0)  # the last column is left out
    table.load(np.arange(6), kinds + np.array([5, 5, 0], np.float32))
    centred, plain = (Likeness(table, 2, is_centred) for is_centred in (True, False))
    one, others = np.array([0]), np.array([1, 4, 6, PAD])
    assert centred(one, others)[0].tolist() == pytest.approx([1, 0, 0, 0], abs=1e-5)
    assert plain(one, others)[0].min(where=[True, True, False, False], initial=1) > 0.9
    table.load(np.array([3, 4, 5]), np.repeat(np.array([[8, 5, 0]], np.float32), 3, axis=0))
    assert centred(one, np.array([3]))[0, 0] == 0  # the mean moves with the rows
