# The content of a store in canonical bytes, for tests and operators that compare stores.
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from state.model_state import NEXT, rounded
from state.rows import cells_of, read_arrays, read_models, read_rows, read_specs
from state.store import Store, Txn

_SAME_NUMBERS = ("dictionary", "catalogue", "first_seen", "offsets", "totals", "tombstones")
_RECORDS = ("sequence", "seen", "dislikes", "slates", "impressions")


def dump(store: Store) -> dict[str, bytes]:
    """Part → all its keys and values in order: records, dictionary, catalogue, offsets, totals, and models' counts.

    Two runs that took in the same log have equal parts, however often they were killed. What may differ is left out:
    how many versions there were, the deltas log, and what gradients trained.
    """
    with store.read() as txn:
        parts = {name: _content(txn, store, name) for name in _SAME_NUMBERS + _RECORDS}
        for model in _served(txn, store):
            for table, spec in read_specs(txn, store, model).items():
                if spec.kind == "cells" or (spec.kind == "rows" and spec.dtype == "<f8"):
                    name = f"{'cells' if spec.kind == 'cells' else 'rows'}:{model}/{table}"
                    parts[name] = _content(txn, store, name)
        return parts


def _content(txn: Txn, store: Store, name: str) -> bytes:
    pairs = txn.cursor(store.db(name))
    return b"".join(len(part).to_bytes(4, "big") + part for pair in pairs for part in pair)


def dump_serving(txn: Txn, store: Store) -> list[tuple[str, str, bytes]]:
    """Sorted (table, item_id or user or weight, bytes as served): equal in a stage's store and any that follows it."""
    names = [name.decode() for _, name in txn.cursor(store.db("dictionary"))]
    return sorted(line for model in _served(txn, store) for line in _model_lines(txn, store, model, names))


def _served(txn: Txn, store: Store) -> list[str]:
    return [model for model in read_models(txn, store) if not model.endswith(NEXT)]


def _model_lines(txn: Txn, store: Store, model: str, names: list[str]) -> Iterator[tuple[str, str, bytes]]:
    for table, spec in read_specs(txn, store, model).items():
        name = f"{spec.kind}:{model}/{table}"
        if spec.kind == "rows":
            numbers, values, _ = read_rows(txn, store, name, spec)
            lines = zip(numbers.tolist(), rounded(values), strict=True)
            yield from ((name, names[number], row.tobytes()) for number, row in lines)
            continue
        for key, data in txn.cursor(store.db(name)):
            if spec.kind == "user_rows":
                yield name, key.decode(), rounded(np.frombuffer(data, "<f4")).tobytes()
            else:
                columns, counts = cells_of(data)
                cells = sorted(zip((names[column] for column in columns), counts.astype("<f4"), strict=True))
                yield name, names[int.from_bytes(key, "big")], repr([(n, float(c)) for n, c in cells]).encode()
    for weight, weights in read_arrays(txn, store, f"dense:{model}").items():
        yield f"dense:{model}", weight, repr(weights.shape).encode() + rounded(weights.astype(np.float32)).tobytes()
