# Rows by user: read through where they are not held, bounded in memory, forgotten for good.
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.user_table import UserTable


def row(*numbers: float) -> NDArray[np.float32]:
    return np.array(numbers, np.float32)


def test_a_row_that_is_not_held_is_read_and_reading_holds_nothing() -> None:
    table = UserTable(2)
    table.bind({b"a": row(1, 2)}.get)
    np.testing.assert_array_equal(table.rows([b"a", b"b", b"a"]), [[1, 2], [0, 0], [1, 2]])
    assert table.held() == []
    assert table.take_touched() == []
    table.bind(None)
    np.testing.assert_array_equal(table.rows([b"a"]), [[0, 0]])


def test_what_was_put_stands_before_what_is_stored() -> None:
    table = UserTable(1)
    table.bind({b"a": row(1)}.get)
    table.put([b"a"], np.array([[5]], np.float32))
    np.testing.assert_array_equal(table.rows([b"a"]), [[5]])
    assert table.take_touched() == [b"a"]
    assert table.take_touched() == []


def test_memory_holds_the_newest_rows_but_no_touched_one_leaves_before_it_was_taken() -> None:
    table, users = UserTable(1, capacity=2), [b"a", b"b", b"c", b"d"]
    table.put(users, np.arange(4, dtype=np.float32)[:, None])
    assert table.held() == users
    table.take_touched()
    table.put([b"a"], np.array([[9]], np.float32))
    assert table.held() == [b"d", b"a"]


def test_a_row_that_was_put_is_a_copy() -> None:
    table, given = UserTable(1), np.array([[1]], np.float32)
    table.put([b"a"], given)
    given[:] = 7
    table.rows([b"a"])[:] = 7
    np.testing.assert_array_equal(table.rows([b"a"]), [[1]])


def test_a_forgotten_user_has_no_row_and_is_not_touched() -> None:
    table = UserTable(1)
    table.put([b"a", b"b"], np.ones((2, 1), np.float32))
    before = table.changes
    table.forget(b"a")
    table.forget(b"never")
    assert table.row(b"a") is None
    assert table.take_touched() == [b"b"]
    assert table.changes > before
