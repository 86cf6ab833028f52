# How rows, cells and arrays of models lie in LMDB.
from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from state.model_state import TableSpec
from state.store import Store, Txn

_CELL = np.dtype([("column", "<u4"), ("count", "<f8")])
Cells = tuple[NDArray[np.int64], NDArray[np.float64]]  # columns ascending, counts


def read_specs(txn: Txn, store: Store, model: str) -> dict[str, TableSpec]:
    """What tables a model has in the store."""
    return store.get_meta(txn, f"tables:{model}", dict[str, TableSpec]) or {}


def add_specs(txn: Txn, store: Store, model: str, specs: dict[str, TableSpec]) -> None:
    """Note the tables of a model beside those it had, and open their databases."""
    models, before = read_models(txn, store), read_specs(txn, store, model)
    if model in models and specs.keys() <= before.keys():
        return
    store.put_meta(txn, "models", sorted({*models, model}))
    store.put_meta(txn, f"tables:{model}", {**before, **specs})
    names = [f"{spec.kind}:{model}/{table}" for table, spec in specs.items()]
    for name in [*names, f"dense:{model}", f"training:{model}"]:
        store.db(name, txn=txn)


def clear_model(txn: Txn, store: Store, model: str) -> None:
    """Delete all that a store holds of a model's tables, weights and training state."""
    names = [f"{spec.kind}:{model}/{table}" for table, spec in read_specs(txn, store, model).items()]
    if model in read_models(txn, store):
        for name in [*names, f"dense:{model}", f"training:{model}"]:
            txn.drop(store.db(name, txn=txn), delete=False)
        store.put_meta(txn, f"tables:{model}", {})


def read_models(txn: Txn, store: Store) -> list[str]:
    """Names of the models that have tables or weights in the store."""
    return store.get_meta(txn, "models", list[str]) or []


def put_rows(
    txn: Txn, store: Store, name: str, numbers: NDArray[np.int64], parts: Sequence[NDArray[np.floating]]
) -> None:
    """Write rows of items ([N], ascending), each the bytes of its rows in `parts` ([N, any]) one behind the other."""
    if len(numbers) == 0:
        return
    data = np.hstack([np.ascontiguousarray(part).view(np.uint8).reshape(len(numbers), -1) for part in parts])
    keys, step, blob = numbers.astype(">u4").tobytes(), data.shape[1], data.tobytes()
    pairs = [(keys[4 * n : 4 * n + 4], blob[step * n : step * n + step]) for n in range(len(numbers))]
    txn.cursor(store.db(name)).putmulti(pairs)


def delete_rows(txn: Txn, store: Store, name: str, numbers: NDArray[np.int64]) -> None:
    """Delete rows of items; those that are not there are none."""
    database = store.db(name)
    for number in numbers.tolist():
        txn.delete(number.to_bytes(4, "big"), db=database)


def read_rows(
    txn: Txn, store: Store, name: str, spec: TableSpec
) -> tuple[NDArray[np.int64], NDArray[np.floating], NDArray[np.float32]]:
    """(numbers [N], values [N, width], slots [N, num_slots]; the latter of width 0 where a follower wrote them)."""
    pairs = list(txn.cursor(store.db(name)))
    numbers = np.frombuffer(b"".join(key for key, _ in pairs), ">u4").astype(np.int64)
    split = spec.width * np.dtype(spec.dtype).itemsize
    row_bytes = len(pairs[0][1]) if pairs else split
    data = np.frombuffer(b"".join(row for _, row in pairs), np.uint8).reshape(len(pairs), row_bytes)
    values = np.ascontiguousarray(data[:, :split]).view(spec.dtype).reshape(len(pairs), spec.width)
    return numbers, values, np.ascontiguousarray(data[:, split:]).view("<f4")


def put_cells(txn: Txn, store: Store, name: str, row: int, cells: Cells) -> None:
    """Write a whole row of cells (columns ascending); an empty one leaves nothing."""
    columns, counts = cells
    key, database = row.to_bytes(4, "big"), store.db(name)
    if len(columns) == 0:
        txn.delete(key, db=database)
        return
    data = np.empty(len(columns), _CELL)
    data["column"], data["count"] = columns, counts
    txn.put(key, data.tobytes(), db=database)


def get_cells(txn: Txn, store: Store, name: str, row: int) -> Cells:
    """One row of cells, empty where there is none."""
    return cells_of(txn.get(row.to_bytes(4, "big"), b"", db=store.db(name)))


def cells_of(data: bytes) -> Cells:
    """The cells in the bytes of a row."""
    cells = np.frombuffer(data, _CELL)
    return cells["column"].astype(np.int64), cells["count"].astype(np.float64)


def put_arrays(
    txn: Txn, store: Store, name: str, arrays: dict[str, NDArray[np.generic]]
) -> dict[str, NDArray[np.generic]]:
    """Write arrays under their names where they differ from what is there; those that did."""
    database, changed = store.db(name), {}
    for key, array in sorted(arrays.items()):
        data = msgspec.msgpack.encode((array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes()))
        if txn.get(key.encode(), db=database) != data:
            txn.put(key.encode(), data, db=database)
            changed[key] = array
    return changed


def read_arrays(txn: Txn, store: Store, name: str) -> dict[str, NDArray[np.generic]]:
    """What `put_arrays` put, as arrays that may be written to."""
    arrays = {}
    for key, packed in txn.cursor(store.db(name)):
        dtype, shape, data = msgspec.msgpack.decode(packed, type=tuple[str, tuple[int, ...], bytes])
        arrays[key.decode()] = np.frombuffer(data, dtype).reshape(shape).copy()
    return arrays
