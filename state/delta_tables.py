# A model's delta written to a store, without the model.
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from state.delta import Cells, ModelDelta
from state.meta import put_config
from state.model_state import TableSpec
from state.rows import add_specs, clear_model, delete_rows, get_cells, put_arrays, put_cells, put_rows
from state.store import Store, Txn
from state.tables import by_row, put_user_rows


def write_delta(txn: Txn, store: Store, name: str, delta: ModelDelta) -> None:
    """Bring a model's tables in a store to a delta's version. Its item numbers are the store's."""
    if delta.replaces:
        clear_model(txn, store, name)
    add_specs(txn, store, name, _specs(delta))
    if delta.config:
        put_config(txn, store, name, delta.config)
    for table, gone in delta.gone.items():
        delete_rows(txn, store, f"rows:{name}/{table}", gone)
    for table, rows in delta.rows.items():
        order = np.argsort(rows.numbers)
        values = rows.data[order].astype(_on_disk(rows.data))
        put_rows(txn, store, f"rows:{name}/{table}", rows.numbers[order], [values])
    for table, by_user in delta.user_rows.items():
        put_user_rows(txn, store, f"user_rows:{name}/{table}", by_user.users, by_user.data.astype(np.float32))
    for table, cells in delta.cells.items():
        _merge_cells(txn, store, f"cells:{name}/{table}", cells)
    put_arrays(txn, store, f"dense:{name}", {key: weights.astype(np.float32) for key, weights in delta.dense.items()})


def _specs(delta: ModelDelta) -> dict[str, TableSpec]:
    specs = {table: TableSpec("rows", _on_disk(rows.data), rows.data.shape[1]) for table, rows in delta.rows.items()}
    for table, by_user in delta.user_rows.items():
        specs[table] = TableSpec("user_rows", "<f4", by_user.data.shape[1])
    return specs | {table: TableSpec("cells") for table in delta.cells}


def _on_disk(data: NDArray[np.floating]) -> str:
    return "<f8" if data.dtype == np.float64 else "<f4"


def _merge_cells(txn: Txn, store: Store, name: str, cells: Cells) -> None:
    for row, columns, counts in by_row(cells):
        before, before_counts = get_cells(txn, store, name, row)
        merged = dict(zip(before.tolist(), before_counts.tolist(), strict=True))
        merged |= dict(zip(columns.tolist(), counts.tolist(), strict=True))
        kept = {column: merged[column] for column in sorted(merged) if merged[column]}
        put_cells(txn, store, name, row, (np.array(list(kept), np.int64), np.array(list(kept.values()), np.float64)))
