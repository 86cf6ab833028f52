# Parts of a batch: the examples, or the queries, at some places of it.
from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.base import Batch, Query

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
    )
