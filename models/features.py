# What the blend looks at: a few numbers about each candidate, given a history.
from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.base import Query
from models.covisitation import Covisitation
from models.transformer import Transformer

FEATURES: Final = (
    "transformer",
    "covisitation",
    "popularity",
    "recent",
    "trending",
    "age",
    "skipped_vectors",
    "skipped_together",
)
SKIPPED: Final = (FEATURES.index("skipped_vectors"), FEATURES.index("skipped_together"))
NEWEST_SKIPS: Final = 5  # of a history, that push similar items down


def log_counts(log2_counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """log2(1 + count) from log2 of a count: 0 where there is none."""
    return np.logaddexp2(log2_counts, np.float32(0)).astype(np.float32, copy=False)


def skipped_items(query: Query) -> NDArray[np.int64]:
    """[Q, NEWEST_SKIPS] newest entries with label 0, newest first, PAD (-1) behind them."""
    items = np.where(query.labels > 0, -1, query.items)[:, ::-1]
    order = np.argsort(items < 0, axis=1, kind="stable")[:, :NEWEST_SKIPS]
    return np.take_along_axis(items, order, axis=1)


def skip_features(
    query: Query, items: NDArray[np.int64], transformer: Transformer, covisitation: Covisitation
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How like [Q, M] candidates are to what was just skipped: largest cosine of vectors, log2(1 + joint takings)."""
    cosine, together = np.zeros(items.shape, np.float32), np.zeros(items.shape, np.float32)
    vectors = transformer.item_vectors()
    for row, skipped in enumerate(skipped_items(query)):
        skipped = skipped[skipped >= 0]
        if len(skipped) == 0:
            continue
        together[row] = log_counts(np.log2(covisitation.joint_counts(skipped, items[row]) + np.float32(1e-9)))
        known = (items[row] >= 0) & (items[row] < len(vectors))
        skipped = skipped[skipped < len(vectors)]
        if len(skipped):
            likeness = _unit(vectors[items[row][known]]) @ _unit(vectors[skipped]).T
            cosine[row, known] = likeness.max(axis=1).clip(min=0)
    return cosine, together


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return unit
