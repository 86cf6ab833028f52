# Models in the store: a learner resumes exactly, every other home holds the same rounded numbers.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models.tables import RowTable
from state.deltas import Delta, decode, encode
from state.dictionary import Dictionary
from state.dump import dump, dump_serving
from state.model_state import rounded
from state.store import Store
from state.tables import apply_delta, forget_user_rows, get_user_row, load_model, save_model
from tests.state.doubles import TableModel


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s", "learn", writer=True) as store:
        yield store


def learned(store: Store, num_versions: int, homes: list[TableModel] | None = None) -> TableModel:
    """A model after some commits, whose deltas the homes took."""
    model, rng, dictionary = TableModel(), np.random.default_rng(1), Dictionary(store)
    for version in range(1, num_versions + 1):
        for number in range(2 * version):
            dictionary.number(f"i{number}")
        model.change(rng, 2 * version)
        with store.write() as txn:
            dictionary.flush(txn)
            delta = Delta("learn", version, models={"m": save_model(txn, store, "m", model)})
        for home in homes or ():
            apply_delta(home, decode(encode(delta, dictionary.name), dictionary.find).models["m"])
    return model


def loaded(store: Store, training: bool, numbers: list[int] | None = None) -> TableModel:
    model = TableModel()
    with store.read() as txn:
        load_model(txn, store, "m", model, training, None if numbers is None else np.array(numbers))
    return model


def rows_of(table: RowTable) -> list[list[float]]:
    rows: list[list[float]] = table.values[: table.size].tolist()
    return rows


def test_a_learner_resumes_with_the_same_bits(store: Store) -> None:
    model = learned(store, 12)
    resumed = loaded(store, training=True)
    assert rows_of(resumed.embeddings) == rows_of(model.embeddings)
    assert rows_of(resumed.counters) == rows_of(model.counters)
    size = model.embeddings.size
    assert (resumed.embeddings.slots[:size] == model.embeddings.slots[:size]).all()
    assert resumed.cells.rows == {row: cells for row, cells in model.cells.rows.items() if cells}
    assert (resumed.weights == model.weights).all()
    assert resumed.state["moment"].tolist() == model.state["moment"].tolist()


def test_a_home_that_followed_and_one_that_loaded_hold_the_same_numbers(store: Store) -> None:
    followed = TableModel()
    model = learned(store, 12, [followed])
    home = loaded(store, training=False)
    assert rows_of(home.embeddings) == rows_of(followed.embeddings) != rows_of(model.embeddings)
    assert rows_of(home.counters) == rows_of(followed.counters) == rows_of(model.counters)[: home.counters.size]
    assert home.cells.rows == {row: cells for row, cells in followed.cells.rows.items() if cells}
    assert (home.weights == followed.weights).all()
    assert (home.weights == model.weights.astype(np.float16)).all()


def test_a_home_with_other_numbers_leaves_out_items_it_does_not_know(store: Store) -> None:
    model = learned(store, 6)
    numbers = [-1, 30, *range(2, 12)]
    home = loaded(store, training=False, numbers=numbers)
    assert rows_of(home.counters)[30] == rows_of(model.counters)[1]
    expected = {
        numbers[row]: {numbers[column]: float(np.float32(count)) for column, count in cells.items() if column}
        for row, cells in model.cells.rows.items()
        if row
    }
    assert {row: cells for row, cells in home.cells.rows.items() if cells} == {r: c for r, c in expected.items() if c}


def test_a_model_that_was_never_saved_stays_empty(store: Store) -> None:
    model = loaded(store, training=True)
    assert model.embeddings.size == 0
    assert model.state["moment"].tolist() == [0, 0]


def test_only_what_changed_is_in_the_next_delta(store: Store) -> None:
    model = learned(store, 3)
    model.embeddings.values[2] = 7
    model.embeddings.touch(np.array([2]))
    with store.write() as txn:
        delta = save_model(txn, store, "m", model)
    assert delta.rows["embeddings"].numbers.tolist() == [2]
    assert delta.rows["counters"].numbers.tolist() == []
    assert delta.cells["cells"].rows.tolist() == []
    assert delta.user_rows["users"].users == []
    assert delta.dense == {}


def test_rows_by_user_are_read_in_full_and_leave_with_the_user(store: Store) -> None:
    model = learned(store, 6)
    user = b"u1"
    expected = model.users.row(user)
    with store.write() as txn:
        found = get_user_row(txn, store, "m", "users", user)
        assert found is not None
        assert expected is not None
        assert found.tolist() == expected.tolist()
        forget_user_rows(txn, store, user)
        assert get_user_row(txn, store, "m", "users", user) is None
        assert get_user_row(txn, store, "m", "users", b"u2") is not None


def test_numbers_beyond_fp16_are_served_as_its_greatest_and_infinite_ones_stay_so() -> None:
    values = np.array([1e9, -1e9, np.inf, 65504, 0.1], np.float32)
    assert rounded(values).tolist() == [65504, -65504, np.inf, 65504, float(np.float16(0.1))]


def test_equal_stores_have_equal_dumps_and_one_more_change_shows(tmp_path: Path) -> None:
    dumps, served = [], []
    for name, num_versions in (("a", 4), ("b", 4), ("c", 5)):
        with Store(tmp_path / name, "learn", writer=True) as store:
            learned(store, num_versions)
            dumps.append(dump(store))
            with store.read() as txn:
                served.append(dump_serving(txn, store))
    assert dumps[0] == dumps[1]
    assert served[0] == served[1]
    assert {part for part in dumps[0] if dumps[0][part] != dumps[2][part]} >= {"cells:m/cells", "rows:m/counters"}
    assert served[0] != served[2]
