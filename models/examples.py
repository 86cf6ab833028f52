# Parts of a batch: the examples, or the queries, at some places of it.
from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Batch, Query

_Scalar = TypeVar("_Scalar", bound=np.generic)
Places: TypeAlias = slice | NDArray[np.int64]


def cut(batch: Batch, rows: Places) -> Batch:
    """The examples at `rows`."""
    return Batch(
        query=cut_query(batch.query, rows),
        items=batch.items[rows],
        labels=batch.labels[rows],
        weights=batch.weights[rows],
        sampled=None if batch.sampled is None else batch.sampled[rows],
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


def in_steps(batch: Batch, max_step: int, update: Callable[[Batch], float]) -> float:
    """Learn a batch of at least one example in steps of at most `max_step`, in its order; the mean loss."""
    parts = [cut(batch, slice(start, start + max_step)) for start in range(0, len(batch.items), max_step)]
    return float(np.average([update(part) for part in parts], weights=[len(part.items) for part in parts]))


def newest_entries(query: Query, window: int) -> Query:
    """The queries with their `window` newest entries alone, padded on the left where histories are shorter."""
    missing = max(window - query.items.shape[1], 0)

    def newest(values: NDArray[_Scalar], fill: int) -> NDArray[_Scalar]:
        newest = values[:, -window:]
        return np.pad(newest, ((0, 0), (missing, 0)), constant_values=fill) if missing else newest

    return Query(
        items=newest(query.items, PAD),
        signals=newest(query.signals, 0),
        labels=newest(query.labels, 0),
        at=newest(query.at, 0),
        in_session=newest(query.in_session, False),
        now=query.now,
        users=query.users,
    )


def newest_wanted(items: NDArray[np.int64], wanted: NDArray[np.bool_], num: int) -> NDArray[np.int64]:
    """[Q, num] newest of the items [Q, L] that are wanted [Q, L], newest first, PAD behind them."""
    kept = np.where(wanted, items, PAD)[:, ::-1]
    order = np.argsort(kept < 0, axis=1, kind="stable")[:, :num]  # wanted first
    missing, found = num - order.shape[1], np.take_along_axis(kept, order, axis=1)
    return np.pad(found, ((0, 0), (0, missing)), constant_values=PAD) if missing else found
