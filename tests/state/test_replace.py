# Rows that go and models that are replaced: the store, its followers and its views hold the same afterwards.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.tables import CellTable, RowTable
from state.deltas import Delta, DeltaLog, ModelDelta, encode
from state.dictionary import Dictionary
from state.dump import dump_serving
from state.follower import Follower, StoreSource
from state.meta import put_held, put_version
from state.signals import SignalTable
from state.store import Store, Txn
from state.tables import drop_model, load_model, replace_model, save_model
from state.view import View
from tests.state.doubles import TableModel


class WideModel(TableModel):
    """The same model configured otherwise: longer rows, another dense weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = RowTable(6, num_slots=2)
        self.tables = {"embeddings": self.embeddings, "counters": self.counters, "cells": self.cells}

    def dense(self) -> dict[str, NDArray[np.float32]]:
        return {"other": np.arange(5, dtype=np.float32)}


class Learner:
    """A learn store committed by hand, a node that follows it, and a view of both."""

    def __init__(self, path: Path) -> None:
        self.store, self.node = Store(path / "learn", "learn", writer=True), Store(path / "node", "follow", writer=True)
        self.fold = Store(path / "fold", "fold", writer=True)
        self.items, self.fold_items = Dictionary(self.store), Dictionary(self.fold)
        self.model, self.rng, self.version = TableModel(), np.random.default_rng(7), 0
        with self.store.write() as learn_txn, self.fold.write() as fold_txn:
            for number in range(20):
                self.items.number(f"i{number}")
                self.fold_items.number(f"i{19 - number}")
            self.items.flush(learn_txn)
            self.fold_items.flush(fold_txn)
            put_version(fold_txn, self.fold, "fold", 1)

    def learn(self, num_versions: int = 1) -> None:
        for _ in range(num_versions):
            self.model.change(self.rng, 20)
            self.save()

    def save(self) -> None:
        with self.store.write() as txn:
            self.commit(txn, save_model(txn, self.store, "m", self.model))

    def replace(self, model: TableModel) -> None:
        self.model = model
        with self.store.write() as txn:
            self.commit(txn, replace_model(txn, self.store, "m", model))

    def commit(self, txn: Txn, changes: ModelDelta) -> None:
        self.version += 1
        delta = Delta("learn", self.version, models={"m": changes})
        put_version(txn, self.store, "learn", self.version)
        DeltaLog(self.store).append(txn, self.version, encode(delta, self.items.name), 0)

    def follow(self) -> None:
        """Bring the node up to date and check that it holds what the store holds."""
        Follower(self.node, SignalTable()).step("learn", StoreSource(self.store), 0)
        with self.node.read() as txn, self.store.read() as own:
            assert dump_serving(txn, self.node) == dump_serving(own, self.store)


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Learner]:
    learner = Learner(tmp_path)
    yield learner
    for store in (learner.store, learner.node, learner.fold):
        store.close()


def loaded(store: Store, model: TableModel) -> TableModel:
    with store.read() as txn:
        load_model(txn, store, "m", model, training=True)
    return model


def cells_of(table: CellTable) -> dict[int, dict[int, float]]:
    return {row: cells for row, cells in table.rows.items() if cells}


def test_a_replaced_model_is_all_that_store_and_followers_hold(learner: Learner) -> None:
    learner.learn(4)
    learner.follow()
    other, rng = TableModel(), np.random.default_rng(99)
    other.change(rng, 9)
    learner.replace(other)
    learner.follow()
    resumed = loaded(learner.store, TableModel())
    present = np.flatnonzero(other.embeddings.present)
    assert np.flatnonzero(resumed.embeddings.present).tolist() == present.tolist()
    assert (resumed.embeddings.values[present] == other.embeddings.values[present]).all()
    assert (resumed.embeddings.slots[present] == other.embeddings.slots[present]).all()
    assert cells_of(resumed.cells) == cells_of(other.cells)
    assert (resumed.weights == other.weights).all()
    assert resumed.state["moment"].tolist() == other.state["moment"].tolist()
    learner.learn(2)
    learner.follow()


def test_a_model_may_be_replaced_by_one_of_another_shape(learner: Learner) -> None:
    learner.learn(3)
    learner.follow()
    wide = WideModel()
    wide.change(np.random.default_rng(3), 12)
    learner.replace(wide)
    learner.follow()
    with learner.node.read() as txn:
        lines = {line[:2]: line[2] for line in dump_serving(txn, learner.node)}
    assert [name for name in lines if name[0] == "dense:m"] == [("dense:m", "other")]
    assert {len(row) for (table, _), row in lines.items() if table == "rows:m/embeddings"} == {2 * 6}


def test_a_model_takes_the_rows_by_user_along_that_were_stored_for_it(learner: Learner) -> None:
    """As a rebuild does: what it committed under its own name before is not in memory any more."""
    learner.learn(3)
    learner.follow()
    following = TableModel()
    following.users.set(b"u9", np.arange(3, dtype=np.float32))
    with learner.store.write() as txn:
        save_model(txn, learner.store, "m.next", following)
    with learner.store.write() as txn:
        learner.commit(txn, replace_model(txn, learner.store, "m", following, stored_as="m.next"))
        drop_model(txn, learner.store, "m.next")
    learner.model = following
    learner.follow()
    with learner.node.read() as txn:
        users = {user for table, user, _ in dump_serving(txn, learner.node) if table == "user_rows:m/users"}
    assert users == {"u9"}


def test_a_view_loads_a_replaced_model_anew(learner: Learner) -> None:
    learner.learn(3)
    view = View(learner.fold, learner.store, lambda _: {"m": TableModel()})
    assert view.refresh()
    with view.read() as home:
        before = home.models["m"]
    other = TableModel()
    other.change(np.random.default_rng(4), 6)
    learner.replace(other)
    assert view.refresh()
    with view.read() as home:
        after = home.models["m"]
        assert after is not before
        for number in range(20):
            row = after.counters.values[19 - number] if 19 - number < after.counters.size else np.zeros(2)
            assert row.tolist() == (other.counters.values[number].tolist() if number < 6 else [0, 0])
        assert (after.weights == other.weights.astype(np.float16)).all()
    view.close()


def test_removed_rows_leave_store_followers_and_views(learner: Learner) -> None:
    learner.learn(6)
    learner.follow()
    view = View(learner.fold, learner.store, lambda _: {"m": TableModel()})
    view.refresh()
    gone = np.array([1, 2, 5])
    for table in learner.model.tables.values():
        table.remove(gone)
    learner.save()
    learner.follow()
    view.refresh()
    with view.read() as home:
        assert (home.models["m"].counters.values[19 - gone] == 0).all()
        assert not home.models["m"].counters.present[19 - gone].any()
        assert not set((19 - gone).tolist()) & cells_of(home.models["m"].cells).keys()
    view.close()
    resumed = loaded(learner.store, TableModel())
    assert not resumed.embeddings.present[gone].any()
    assert cells_of(resumed.cells) == cells_of(learner.model.cells)
    assert not set(gone.tolist()) & cells_of(resumed.cells).keys()


def test_a_row_that_goes_and_comes_back_in_one_version_holds_the_new_one(learner: Learner) -> None:
    learner.learn(6)
    table = learner.model.counters
    row = int(np.flatnonzero(table.present)[0])
    table.remove(np.array([row]))
    table.values[row] = 42
    table.touch(np.array([row]))
    learner.save()
    learner.follow()
    resumed = loaded(learner.store, TableModel())
    assert resumed.counters.values[row].tolist() == [42, 42]


def test_what_is_held_reaches_followers_and_views(learner: Learner) -> None:
    learner.learn()
    with learner.store.write() as txn:
        put_held(txn, learner.store, {"m": "a row is not finite"})
        put_version(txn, learner.store, "learn", 2)
        delta = Delta("learn", 2, held={"m": "a row is not finite"})
        DeltaLog(learner.store).append(txn, 2, encode(delta, learner.items.name), 0)
    learner.follow()
    for stores in ((learner.fold, learner.store), (learner.node, learner.node)):
        view = View(*stores, lambda _: {"m": TableModel()})
        view.refresh()
        with view.read() as home:
            assert home.held == {"m": "a row is not finite"}
        view.close()
