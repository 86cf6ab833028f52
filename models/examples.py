# Parts of a batch: the examples, or the queries, at some places of it.
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Batch, Query

_FILLS: Final = {"items": PAD, "signals": 0, "labels": 0, "at": 0, "in_session": False}  # where there is no entry
_Scalar = TypeVar("_Scalar", bound=np.generic)
Places: TypeAlias = slice | NDArray[np.int64]


class _Change(Protocol):
    def __call__(self, values: NDArray[_Scalar], fill: int, /) -> NDArray[_Scalar]: ...


def cut(batch: Batch, rows: Places) -> Batch:
    """The examples at `rows`."""
    return Batch(
        query=cut_query(batch.query, rows),
        items=batch.items[rows],
        labels=batch.labels[rows],
        weights=batch.weights[rows],
        sampled=None if batch.sampled is None else batch.sampled[rows],
        shown=None if batch.shown is None else batch.shown[rows],
    )


def cut_query(query: Query, rows: Places) -> Query:
    """The queries at `rows`."""
    return Query(
        items=query.items[rows],
        signals=query.signals[rows],
        labels=query.labels[rows],
        at=query.at[rows],
        in_session=query.in_session[rows],
        now=query.now[rows],
        users=None if query.users is None else query.users[rows],
        order=query.order,
    )


def joined(queries: Sequence[Query]) -> Query:
    """The queries of several, in their order; all of one width, with users, and `order` is the first's."""
    return Query(
        items=np.concatenate([query.items for query in queries]),
        signals=np.concatenate([query.signals for query in queries]),
        labels=np.concatenate([query.labels for query in queries]),
        at=np.concatenate([query.at for query in queries]),
        in_session=np.concatenate([query.in_session for query in queries]),
        now=np.concatenate([query.now for query in queries]),
        users=np.concatenate([query.users for query in queries if query.users is not None]),
        order=queries[0].order,
    )


def shares_of(weights: NDArray[np.floating]) -> NDArray[np.float32]:
    """[B] what each weight is of their sum, which may be beyond float32."""
    total = max(weights.sum(dtype=np.float64), 1e-12)
    shares: NDArray[np.float32] = (weights / total).astype(np.float32)
    return shares


def in_steps(batch: Batch, max_step: int, update: Callable[[Batch], float]) -> float:
    """Learn a batch of at least one example in steps of at most `max_step`; the mean loss.

    With n steps, step k has the examples k, k + n, k + 2n …: those that are replayed stand at the end of a batch, and
    so in every step.
    """
    num_steps = -(-len(batch.items) // max_step)
    parts = [cut(batch, slice(first, None, num_steps)) for first in range(num_steps)]
    return float(np.average([update(part) for part in parts], weights=[len(part.items) for part in parts]))


def newest_entries(query: Query, window: int) -> Query:
    """The queries with their `window` newest entries alone, padded on the left where histories are shorter."""
    missing = max(window - query.items.shape[1], 0)
    if query.items.shape[1] == window:
        return query

    def newest(values: NDArray[_Scalar], fill: int) -> NDArray[_Scalar]:
        if not missing:
            return values[:, -window:]
        padded = np.full((len(values), window), fill, values.dtype)  # np.pad takes five times as long
        padded[:, missing:] = values
        return padded

    return _changed(query, newest)


def arranged(query: Query, order: NDArray[np.integer] | NDArray[np.bool_], window: int | None = None) -> Query:
    """The queries with their entries by rising `order` [Q, L], equal ones as they stood; less those of order 0. Of so
    many the last `window` alone, where it is given and there are more."""
    rows, places = np.arange(len(order))[:, None], np.argsort(order, axis=1, kind="stable")
    if window is not None:
        places = places[:, -window:]
    kept = order[rows, places] > 0

    def moved(values: NDArray[_Scalar], fill: int) -> NDArray[_Scalar]:
        return np.where(kept, values[rows, places], values.dtype.type(fill))

    return _changed(query, moved)


def _changed(query: Query, change: _Change) -> Query:
    """The queries with other entries: what `change` makes of each field, told what stands for no entry there."""
    return replace(query, **{name: change(getattr(query, name), fill) for name, fill in _FILLS.items()})


def skips_first(query: Query, window: int, num_skips: int) -> Query:
    """The queries with `window` entries: the newest `num_skips` of those not wanted, if there are so many, then the
    newest wanted ones, as they stood."""
    is_wanted = (query.items != PAD) & (query.labels > 0)
    is_skip = (query.items != PAD) & ~is_wanted
    if is_skip.any():
        is_skip &= _place_from_end(is_skip) < num_skips
        is_wanted &= _place_from_end(is_wanted) < window - is_skip.sum(axis=1, keepdims=True)
        query = arranged(query, 2 * is_wanted + is_skip, window)
    return newest_entries(query, window)


def _place_from_end(marks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[Q, L] how many of a row's marks stand behind each of them."""
    found: NDArray[np.int64] = marks[:, ::-1].cumsum(axis=1)[:, ::-1] - 1
    return found


def every_target(sequences: Query, weights: NDArray[np.float32], window: int) -> Batch:
    """Sequences [B, L] as examples whose targets [B, T] are the newest entries but the first, given those before them.

    `weights` [B, L] of the entries as targets; a target of weight 0 is none, and has label 0. At most `window` entries
    stand before the newest target. Sequences without a target are left out.
    """
    weights = np.where(sequences.items == PAD, np.float32(0), weights)[:, 1:][:, -window:]
    rows = np.flatnonzero((weights != 0).any(axis=1))
    whole, weights = newest_entries(cut_query(sequences, rows), window + 1), weights[rows]
    newest = slice(-weights.shape[1], None)
    return Batch(
        query=replace(whole, **{name: getattr(whole, name)[:, :-1] for name in _FILLS}),
        items=np.where(weights != 0, whole.items[:, newest], whole.items[:, -1:]),
        labels=np.where(weights != 0, whole.labels[:, newest], np.float32(0)),
        weights=weights,
    )


def newest_wanted(items: NDArray[np.int64], wanted: NDArray[np.bool_], num: int) -> NDArray[np.int64]:
    """[Q, num] newest of the items [Q, L] that are wanted [Q, L], newest first, PAD behind them."""
    kept = np.where(wanted, items, PAD)[:, ::-1]
    order = np.argsort(kept < 0, axis=1, kind="stable")[:, :num]  # wanted first
    found = np.full((len(kept), num), PAD, np.int64)
    found[:, : order.shape[1]] = kept[np.arange(len(kept))[:, None], order]
    return found
