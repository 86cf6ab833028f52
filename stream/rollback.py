# Rollback: the models that gradients train go back to a kept version; everything else stays where it is.
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.base import Model
from models.tables import RowTable
from state.delta import Delta
from state.dictionary import Dictionary
from state.meta import get_held, put_held
from state.rows import read_models
from state.snapshots import Snapshot, list_snapshots
from state.store import Store, StoreError, Txn
from state.tables import load_model, replace_model
from stream.admission import Admission
from stream.amend import amend


def kept_version(directory: Path, version: int) -> Snapshot:
    """The learn snapshot of a version. Raises ValueError naming the kept ones where it is none of them."""
    kept = list_snapshots(directory, "learn")
    for snapshot in kept:
        if snapshot.version == version:
            return snapshot
    versions = (
        ", ".join(str(snapshot.version) for snapshot in kept) or "none yet: `runnel snapshot` keeps the present one"
    )
    raise ValueError(f"version {version} is not kept in {directory}; kept are {versions}")


def rollback(store: Store, snapshot: Snapshot, models: Mapping[str, Model], now: int) -> tuple[int, list[str]]:
    """Put trained models back to what they were in a snapshot; the version of the commit, and their names.

    `models` are new ones. Those with dense weights go back: weights, trained rows and optimiser state; and their holds
    end. Tables of counts and times, also theirs, records and all positions stay: they are exact folds of events that
    stay too, and going back would count events twice or not at all. Versions only grow: the commit is the next one,
    and its delta makes followers and servers replace these models whole. `now` (milliseconds) stamps it.

    For the store's one writer, between two steps. Raises StoreError naming what does not fit; nothing is changed then.
    """
    with Store(snapshot.path, "learn") as kept, kept.read() as txn, store.read() as present:
        there = set(read_models(txn, kept)) & set(read_models(present, store))
        names = [name for name, model in models.items() if model.dense() and name in there]
        for name in names:
            _check_same(name, (txn, kept), (present, store))
            load_model(txn, kept, name, _Part(models[name], is_trained=True), training=True)
            load_model(present, store, name, _Part(models[name], is_trained=False), training=True)
    if not names:
        raise StoreError(f"{snapshot.path} holds no weights of the models that are learned now: nothing to roll back")
    expired = np.array(sorted(Admission(store, Dictionary(store)).expired()), np.int64)  # since the snapshot, too
    for name in names:
        for table in models[name].tables.values():
            table.remove(expired)

    def change(txn: Txn, delta: Delta) -> None:
        for name in names:
            delta.models[name] = replace_model(txn, store, name, models[name])
        put_held(txn, store, {name: why for name, why in get_held(txn, store).items() if name not in names})

    return amend(store, now, change), names


class _Part:
    """A model as `load_model` sees it: what gradients train of it alone, or its tables of counts and times alone."""

    def __init__(self, model: Model, is_trained: bool) -> None:
        self._model, self._is_trained = model, is_trained
        self.tables = {
            name: table
            for name, table in model.tables.items()
            if is_trained == (isinstance(table, RowTable) and table.wire == "f2")
        }

    def dense(self) -> dict[str, NDArray[np.float32]]:
        return self._model.dense()

    def load_dense(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        if self._is_trained:
            self._model.load_dense(weights)

    def training_state(self) -> dict[str, NDArray[np.generic]]:
        return self._model.training_state()

    def load_training_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        if self._is_trained:
            self._model.load_training_state(state)


def _check_same(name: str, kept: tuple[Txn, Store], present: tuple[Txn, Store]) -> None:
    """Numbers of items must mean the same, and the model must have been built alike."""
    configs = [store.get_meta(txn, f"config:{name}", str) for txn, store in (kept, present)]
    if configs[0] != configs[1]:
        raise StoreError(f"{kept[1].path}: model {name!r} had the configuration {configs[0]}, now it has {configs[1]}")
    names = kept[0].cursor(kept[1].db("dictionary"))
    if names.last() and present[0].get(names.key(), db=present[1].db("dictionary")) != names.value():
        raise StoreError(f"{kept[1].path} is no snapshot of {present[1].path}: item {names.value().decode()!r} differs")
