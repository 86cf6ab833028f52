# Saving, loading and following what models learned: rows, rows by user, cells, dense weights.
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from state.delta import Cells, ModelDelta, Rows, UserRows
from state.model_state import CellTableLike, ModelState, RowTableLike, TableSpec, UserTableLike, rounded, user_tables
from state.rows import (
    add_specs,
    cells_of,
    clear_model,
    delete_rows,
    put_arrays,
    put_cells,
    put_rows,
    read_arrays,
    read_models,
    read_rows,
    read_specs,
)
from state.store import Store, Txn

_VALUES = {"f2": "<f4", "f8": "<f8"}  # how a row of each wire type lies on disk


def save_model(txn: Txn, store: Store, name: str, model: ModelState) -> ModelDelta:
    """Write what changed of a model since the last call, in full precision, and give it as it is served.

    Rows carry values and optimiser slots. The tables then forget what was touched: if the commit fails, drop the model.
    """
    delta = ModelDelta()
    specs = {table_name: _spec(table) for table_name, table in model.tables.items()}
    specs |= {
        table_name: TableSpec("user_rows", "<f4", table.width) for table_name, table in user_tables(model).items()
    }
    add_specs(txn, store, name, specs)
    sizes = {key: table.size for key, table in model.tables.items() if not isinstance(table, CellTableLike)}
    store.put_meta(txn, f"sizes:{name}", sizes)
    for table_name, table in model.tables.items():
        if isinstance(table, CellTableLike):
            delta.cells[table_name] = _save_cells(txn, store, f"cells:{name}/{table_name}", table)
        else:
            gone = table.take_gone()
            delete_rows(txn, store, f"rows:{name}/{table_name}", gone)
            if len(gone):
                delta.gone[table_name] = gone
            delta.rows[table_name] = _save_rows(txn, store, f"rows:{name}/{table_name}", table)
    for table_name, by_user in user_tables(model).items():
        delta.user_rows[table_name] = _save_user_rows(txn, store, f"user_rows:{name}/{table_name}", by_user)
    dense = put_arrays(txn, store, f"dense:{name}", dict(model.dense()))
    delta.dense = {key: cast("NDArray[np.float16]", rounded(cast("NDArray[np.float32]", dense[key]))) for key in dense}
    put_arrays(txn, store, f"training:{name}", model.training_state())
    return delta


def replace_model(txn: Txn, store: Store, name: str, model: ModelState, stored_as: str | None = None) -> ModelDelta:
    """Make `model` all that the store holds under `name`: what it held before goes, whatever shape it had.

    The delta makes whoever follows do the same; a home loads the model anew. The model's item numbers are the store's.
    Rows by user go too: afterwards those stand that the model touched, or, where it is stored already under the name
    `stored_as`, those stored there (all in memory for once). Whoever learns with another object of this model must
    drop it, and load.
    """
    clear_model(txn, store, name)
    for table in model.tables.values():
        table.touch_all()
    delta = save_model(txn, store, name, model)
    for table_name, by_user in user_tables(model).items() if stored_as else ():
        pairs = list(txn.cursor(store.db(f"user_rows:{stored_as}/{table_name}", txn=txn)))
        users = [bytes(user) for user, _ in pairs]
        values = np.frombuffer(b"".join(row for _, row in pairs), "<f4").reshape(len(users), by_user.width)
        put_user_rows(txn, store, f"user_rows:{name}/{table_name}", users, values)
        delta.user_rows[table_name] = UserRows(users, rounded(values))
    delta.replaces = True
    return delta


def drop_model(txn: Txn, store: Store, name: str) -> None:
    """Delete all that a store holds and says of a model; nothing where it does not know it."""
    clear_model(txn, store, name)
    store.put_meta(txn, "models", [model for model in read_models(txn, store) if model != name])
    for key in ("tables", "sizes", "config"):
        txn.delete(f"{key}:{name}".encode(), db=store.db("meta"))


def _spec(table: RowTableLike | CellTableLike) -> TableSpec:
    if isinstance(table, CellTableLike):
        return TableSpec("cells")
    return TableSpec("rows", _VALUES[table.wire], table.width)


def _save_rows(txn: Txn, store: Store, name: str, table: RowTableLike) -> Rows:
    numbers = table.take_touched()
    values = table.values[numbers]
    put_rows(txn, store, name, numbers, (values, table.slots[numbers]))
    return Rows(numbers, rounded(values))


def _save_user_rows(txn: Txn, store: Store, name: str, table: UserTableLike) -> UserRows:
    users, rows = sorted(table.take_touched()), []
    for user in users:
        row = table.row(user)
        if row is None:
            raise KeyError(f"{name}: user {user!r} was touched and has no row")
        rows.append(row)
    put_user_rows(txn, store, name, users, np.array(rows, "<f4").reshape(len(users), table.width))
    return UserRows(users, rounded(np.array(rows, np.float32).reshape(len(users), table.width)))


def _save_cells(txn: Txn, store: Store, name: str, table: CellTableLike) -> Cells:
    touched = sorted(table.take_touched().items())
    rows, columns, counts = [], [], []
    for row, changed in touched:
        cells = table.rows.get(row, {})
        put_cells(txn, store, name, row, _sorted_cells(cells))
        rows += [row] * len(changed)
        columns += (ordered := sorted(changed))
        counts += [cells.get(column, 0.0) for column in ordered]
    return Cells(np.array(rows, np.int64), np.array(columns, np.int64), np.array(counts, np.float32))


def _sorted_cells(cells: Mapping[int, float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    columns = np.fromiter(cells, np.int64, len(cells))
    order = np.argsort(columns)
    return columns[order], np.fromiter(cells.values(), np.float64, len(cells))[order]


def load_model(
    txn: Txn,
    store: Store,
    name: str,
    model: ModelState,
    training: bool,
    numbers: NDArray[np.int64] | None = None,
) -> None:
    """Load all that is stored of a model but its rows by user; nothing where it was never saved.

    A learner (`training`) resumes exactly, with slots and training state. Any other home takes what a follower of the
    deltas would hold: float32 rounded to fp16, counts to float32. `numbers` maps the store's item numbers to the
    home's (-1: unknown there, left out); None where they are the same.
    """
    specs = read_specs(txn, store, name)
    sizes = store.get_meta(txn, f"sizes:{name}", dict[str, int]) or {}
    for table_name, table in model.tables.items():
        if table_name not in specs:
            continue
        if isinstance(table, CellTableLike):
            _load_cells(txn, store, f"cells:{name}/{table_name}", table, training, numbers)
            continue
        rows, values, slots = read_rows(txn, store, f"rows:{name}/{table_name}", specs[table_name])
        rows = rows if numbers is None else numbers[rows]
        known = rows >= 0
        values = values if training else rounded(values)
        table.load(rows[known], values[known], slots[known] if training else None)
        if training:
            table.grow(sizes.get(table_name, 0))  # rows that exist and were never touched
    if name in read_models(txn, store):
        dense = cast("dict[str, NDArray[np.float32]]", read_arrays(txn, store, f"dense:{name}"))
        model.load_dense(dense if training else {key: _served(weights) for key, weights in dense.items()})
        if training:
            model.load_training_state(read_arrays(txn, store, f"training:{name}"))


def _load_cells(
    txn: Txn, store: Store, name: str, table: CellTableLike, training: bool, numbers: NDArray[np.int64] | None
) -> None:
    for key, data in txn.cursor(store.db(name)):
        row = int.from_bytes(key, "big")
        columns, counts = cells_of(data)
        if numbers is not None:
            row, columns = int(numbers[row]), numbers[columns]
        known = columns >= 0
        if row >= 0:
            table.load(row, columns[known], (counts if training else counts.astype(np.float32))[known])


def _served(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    return rounded(weights).astype(np.float32)


def apply_delta(model: ModelState, delta: ModelDelta) -> None:
    """Bring a home's model to the delta's version; twice is as good as once. Tables it does not have are skipped.

    The delta's item numbers are the home's (`decode` mapped them). Rows by user are not taken: they are read from LMDB.
    Raises ValueError for a delta that replaces the model: a home builds it anew and loads it whole.
    """
    if delta.replaces:
        raise ValueError("a delta that replaces a model cannot be applied to it: build the model and load it")
    for table_name, table in model.tables.items():
        if isinstance(table, CellTableLike):
            if table_name in delta.cells:
                for row, columns, counts in by_row(delta.cells[table_name]):
                    table.load(row, columns, counts)
            continue
        if table_name in delta.gone:
            table.remove(delta.gone[table_name])
            table.take_gone()  # nobody asks a home
        if table_name in delta.rows:
            table.load(delta.rows[table_name].numbers, delta.rows[table_name].data)
    if delta.dense:
        model.load_dense({**model.dense(), **{key: w.astype(np.float32) for key, w in delta.dense.items()}})


def by_row(cells: Cells) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
    """(row, columns, counts) of each row that cells are in, ascending."""
    order = np.argsort(cells.rows, kind="stable")
    rows, starts = np.unique(cells.rows[order], return_index=True)
    columns, counts, ends = cells.columns[order], cells.counts[order], [*starts[1:].tolist(), len(order)]
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends[: len(rows)], strict=True):
        yield row, columns[start:end], counts[start:end]  # slices cost a tenth of np.split


def put_user_rows(txn: Txn, store: Store, name: str, users: Sequence[bytes], values: NDArray[np.float32]) -> None:
    """Write rows by user ([N, width] float32, users ascending)."""
    pairs = [(user, row.tobytes()) for user, row in zip(users, values.astype("<f4"), strict=True)]
    txn.cursor(store.db(name)).putmulti(pairs)


def get_user_row(txn: Txn, store: Store, model: str, table: str, user: bytes) -> NDArray[np.float32] | None:
    """One row by user in full precision, as a learner reads through; None where there is none."""
    if table not in read_specs(txn, store, model):
        return None  # the database may be younger than the transaction
    data = txn.get(user, db=store.db(f"user_rows:{model}/{table}"))
    return None if data is None else np.frombuffer(data, "<f4")


@contextmanager
def reading_user_rows(store: Store, models: Mapping[str, ModelState]) -> Iterator[Txn]:
    """A read transaction, from which the models read the rows by user that they do not hold while it is open."""
    txn = store.begin_read_whole()
    tables = [(name, key, table) for name, model in models.items() for key, table in user_tables(model).items()]
    try:
        for name, key, table in tables:
            table.bind(partial(get_user_row, txn, store, name, key))
        yield txn
    finally:
        for _, _, table in tables:
            table.bind(None)
        store.end_read(txn)


def forget_user_rows(txn: Txn, store: Store, user: bytes, models: Mapping[str, ModelState] | None = None) -> None:
    """Delete a user's rows of all tables of all models, and those that `models` hold."""
    for held in (models or {}).values():
        for held_table in user_tables(held).values():
            held_table.forget(user)
    for model in read_models(txn, store):
        for table, spec in read_specs(txn, store, model).items():
            if spec.kind == "user_rows":
                txn.delete(user, db=store.db(f"user_rows:{model}/{table}"))
