# A node's store begun from snapshots of the stages, in place of what it held: what lies behind deltas that are gone.
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from state.catalogue import (
    CatalogueItem,
    lowered,
    read_first_seen,
    read_items,
    wins,
    write_first_seen,
    write_items,
)
from state.delta import Cells, Delta, ModelDelta, Rows
from state.delta_tables import write_delta
from state.deltas import DeltaLog, encode
from state.dictionary import Dictionary
from state.entry import ITEM_OFFSET
from state.follower import LEARN
from state.meta import get_config, get_event_time, get_held, get_version, put_event_time, put_held, put_version
from state.model_state import NEXT, rounded
from state.offsets import add_totals, get_offsets, get_totals, own_totals, put_further, put_offsets
from state.record import ROW_BYTES
from state.rows import add_specs, cells_of, read_arrays, read_models, read_rows, read_specs
from state.slate import row_items, with_items
from state.store import Stage, Store, Txn
from state.tables import drop_model, put_user_rows

_RECORDS = ("sequence", "seen", "dislikes", "slates", "impressions", "tombstones")
_CONTENT = (*_RECORDS, "catalogue", "first_seen", "offsets", "totals", "deltas:fold", "deltas:learn")
_ITEM_AT = {"sequence": ITEM_OFFSET, "seen": 8, "dislikes": 16}  # byte of a row where its item begins
_NUM_AT_ONCE = 50_000


def begin_from(store: Store, folds: Mapping[str, Store], learn: Store, now_ms: int) -> None:
    """Make a follow store what one that had followed these stages from their first deltas on would hold, in one commit.

    `folds` by the names the learner knows them by; none may be behind what `learn` has learned. Item numbers of `store`
    stay; servers that read it load everything anew. `now_ms` stamps its log.
    """
    dictionary = Dictionary(store)
    with store.read() as txn:
        fold_version = get_version(txn, store, "fold")
    numbers = {name: numbers_in(each, dictionary) for name, each in {**folds, LEARN: learn}.items()}
    with store.write() as txn:
        for name in _CONTENT:
            txn.drop(store.db(name), delete=False)
        for model in read_models(txn, store):
            drop_model(txn, store, model)
        put_event_time(txn, store, "fold", 0)
        for name, fold in folds.items():
            _take_fold(txn, store, fold, numbers[name], is_first=name == next(iter(folds)))
        copy_catalogues(txn, store, [(fold, numbers[name]) for name, fold in folds.items()])
        positions = {name: _version(fold) for name, fold in folds.items()}
        # A gap before it, for readers: the log of a store never tells what came of a beginning like this one.
        _log(txn, store, Delta("fold", max(fold_version + 2, sum(positions.values()))), dictionary, now_ms)
        _log(txn, store, _take_learn(txn, store, learn, numbers[LEARN]), dictionary, now_ms)
        dictionary.flush(txn)
        store.put_meta(txn, "positions", positions | {LEARN: _version(learn)})


def numbers_in(source: Store, dictionary: Dictionary) -> NDArray[np.int64]:
    """By item number of a source, the number in a dictionary, assigned there where it is new."""
    with source.read() as txn:
        names = [name.decode() for _, name in txn.cursor(source.db("dictionary"))]
    return np.array([dictionary.number(name) for name in names], np.int64)


def _version(source: Store) -> int:
    with source.read() as txn:
        return get_version(txn, source, source.stage)


def _log(txn: Txn, store: Store, delta: Delta, dictionary: Dictionary, now_ms: int) -> None:
    stage: Stage = "fold" if delta.stage == "fold" else "learn"
    put_version(txn, store, stage, delta.version)
    DeltaLog(store, stage).append(txn, delta.version, encode(delta, dictionary.name), now_ms)


def _take_fold(txn: Txn, store: Store, fold: Store, numbers: NDArray[np.int64], is_first: bool) -> None:
    with fold.read() as reading:
        copy_records(txn, store, reading, fold, numbers)
        add_totals(txn, store, own_totals(get_totals(reading, fold), is_first))
        put_further(txn, store, get_offsets(reading, fold), "fold")
        event_time = max(get_event_time(txn, store, "fold"), get_event_time(reading, fold, "fold"))
        put_event_time(txn, store, "fold", event_time)


def copy_catalogues(txn: Txn, store: Store, folds: Sequence[tuple[Store, NDArray[np.int64]]]) -> None:
    """Write the catalogues of folds, each with its numbers in the store: all read all items, one may be further."""
    items: dict[int, CatalogueItem] = {}
    first_seen = np.zeros(0, np.int64)
    for fold, numbers in folds:
        with fold.read() as reading:
            for number, item in read_items(reading, fold).items():
                before = items.get(int(numbers[number]))
                if before is None or wins(item, before):
                    items[int(numbers[number])] = item
            seen, at = read_first_seen(reading, fold)
            first_seen, _ = lowered(first_seen, numbers[seen], at)
    write_items(txn, store, items)
    write_first_seen(txn, store, {int(number): int(first_seen[number]) for number in np.flatnonzero(first_seen)})


def copy_records(
    txn: Txn,
    store: Store,
    reading: Txn,
    source: Store,
    numbers: NDArray[np.int64],
    wanted: Callable[[bytes], bool] = lambda _: True,
) -> None:
    """Add the records of all wanted users of a source to a store's; `numbers`: by the source's, the store's."""
    for name in _RECORDS:
        cursor = txn.cursor(store.db(name))
        found = ((bytes(user), bytes(row)) for user, row in reading.cursor(source.db(name)) if wanted(bytes(user)))
        for pairs in _portions(found):
            cursor.putmulti(_renumbered(name, pairs, numbers))


def _portions(pairs: Iterator[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    while portion := list(islice(pairs, _NUM_AT_ONCE)):
        yield portion


def _renumbered(name: str, pairs: list[tuple[bytes, bytes]], numbers: NDArray[np.int64]) -> list[tuple[bytes, bytes]]:
    if name in ("slates", "impressions"):
        return [(user, with_items(row, numbers[row_items(row).astype(np.int64)])) for user, row in pairs]
    if name not in _ITEM_AT:
        return pairs
    start, size = _ITEM_AT[name], ROW_BYTES[name]
    rows = np.frombuffer(b"".join(row for _, row in pairs), np.uint8).reshape(len(pairs), size).copy()
    items = np.ascontiguousarray(rows[:, start : start + 4]).view(">u4").astype(np.int64)[:, 0]
    rows[:, start : start + 4] = numbers[items].astype(">u4").view(np.uint8).reshape(len(pairs), 4)
    data = rows.tobytes()
    return [(user, data[size * k : size * (k + 1)]) for k, (user, _) in enumerate(pairs)]


def _take_learn(txn: Txn, store: Store, learn: Store, numbers: NDArray[np.int64]) -> Delta:
    """Write the models; the delta that has servers load them whole."""
    reading = learn.begin_read_whole()
    try:
        delta = Delta("learn", get_version(reading, learn, "learn"), get_offsets(reading, learn))
        delta.fold_versions = learn.get_meta(reading, "fold_versions", dict[str, int]) or {}
        delta.held, delta.event_time = get_held(reading, learn), get_event_time(reading, learn, "learn")
        put_offsets(txn, store, delta.offsets, "learn")
        put_event_time(txn, store, "learn", delta.event_time)
        put_held(txn, store, delta.held)
        add_totals(txn, store, get_totals(reading, learn))
        for model in read_models(reading, learn):
            if not model.endswith(NEXT):
                write_delta(txn, store, model, _whole(reading, learn, model, numbers))
                _copy_user_rows(txn, store, reading, learn, model)
                delta.models[model] = ModelDelta(replaces=True)
        return delta
    finally:
        learn.end_read(reading)


def _whole(reading: Txn, learn: Store, model: str, numbers: NDArray[np.int64]) -> ModelDelta:
    """All that is served of a model, but its rows by user."""
    whole = ModelDelta(config=get_config(reading, learn, model) or "")
    for table, spec in read_specs(reading, learn, model).items():
        if spec.kind == "rows":
            rows, values, _ = read_rows(reading, learn, f"rows:{model}/{table}", spec)
            whole.rows[table] = Rows(numbers[rows], rounded(values))
        elif spec.kind == "cells":
            whole.cells[table] = _all_cells(reading, learn, f"cells:{model}/{table}", numbers)
    arrays = read_arrays(reading, learn, f"dense:{model}")
    whole.dense = {key: rounded(weights.astype(np.float32)).astype(np.float16) for key, weights in arrays.items()}
    return whole


def _all_cells(reading: Txn, learn: Store, name: str, numbers: NDArray[np.int64]) -> Cells:
    found = [(int.from_bytes(key, "big"), *cells_of(data)) for key, data in reading.cursor(learn.db(name))]
    rows = np.array([row for row, columns, _ in found for _ in range(len(columns))], np.int64)
    none = [np.zeros(0)]
    columns = np.concatenate([columns for _, columns, _ in found] or none).astype(np.int64)
    counts = np.concatenate([counts for *_, counts in found] or none).astype(np.float32)
    return Cells(numbers[rows], numbers[columns], counts)


def _copy_user_rows(txn: Txn, store: Store, reading: Txn, learn: Store, model: str) -> None:
    for table, spec in read_specs(reading, learn, model).items():
        if spec.kind != "user_rows":
            continue
        name = f"user_rows:{model}/{table}"
        add_specs(txn, store, model, {table: spec})
        for pairs in _portions((bytes(user), bytes(row)) for user, row in reading.cursor(learn.db(name))):
            values = np.frombuffer(b"".join(row for _, row in pairs), "<f4").reshape(len(pairs), spec.width)
            put_user_rows(txn, store, name, [user for user, _ in pairs], rounded(values).astype(np.float32))
