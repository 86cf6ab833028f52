# What a rank counts for, test by test, so that errors can be told.
from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.base import Model, Query

_GAINS: Final[dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "hr": lambda ranks: np.ones_like(ranks),
    "recall": lambda ranks: np.ones_like(ranks),
    "mrr": lambda ranks: 1.0 / ranks,
    "ndcg": lambda ranks: np.log(2.0) / np.log(ranks + 1.0),
}
ROWS = 256  # queries scored at a time: bounds memory whatever the number of tests


def counted(ranks: NDArray[np.float64], metrics: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
    """Metric → [tests] what each rank (from 1, ties half, infinity a miss) counts: `hr@k`, `ndcg@k` with one relevant
    item, ln 2 / ln(rank + 1), or `mrr@k`. Raises ValueError naming any other metric."""
    found = {}
    for metric in metrics:
        kind, _, cutoff = metric.partition("@")
        if kind not in _GAINS or not cutoff.isdigit():
            raise ValueError(f"unknown metric {metric!r}; the metrics are hr@k, recall@k, mrr@k, ndcg@k")
        found[metric] = np.where(ranks <= int(cutoff), _GAINS[kind](ranks), 0.0)
    return found


def ranks_among(model: Model, query: Query, items: NDArray[np.int64]) -> NDArray[np.float64]:
    """[Q] rank, from 1, of the first of each row of items [Q, M] among all of the row; ties count half.

    A score that is not finite sinks below all others.
    """
    scores = np.nan_to_num(model.score(query, items), nan=-np.inf, posinf=-np.inf)
    own, others = scores[:, :1], scores[:, 1:]
    ranks: NDArray[np.float64] = 1.0 + (others > own).sum(axis=1) + 0.5 * (others == own).sum(axis=1)
    return ranks
