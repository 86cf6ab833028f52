# What the blend looks at: a few numbers about each candidate, given a history.
from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Query
from models.transformer import Transformer

FEATURES: Final = (
    "transformer",
    "covisitation",
    "popularity",
    "recent",
    "trending",
    "age",
    "one",
    "in_session",
    "newest",
    "skipped",
    "place",
)
PART_OF: Final = {"one": "session", "in_session": "session", "newest": "session"}  # what they are told of together
SKIPPED: Final = FEATURES.index("skipped")
HELD: Final = [FEATURES.index("in_session"), FEATURES.index("newest")]
PLACE: Final = FEATURES.index("place")  # log2(1 + place) in the list that was shown; 0 where none was
AGE: Final = FEATURES.index("age")  # log2(1 + hours)
NEWEST: Final = 10  # entries of a history that say whether a skip speaks against what is like it
FADING: Final = np.float32(0.8)


def log_counts(log2_counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """log2(1 + count) from log2 of a count: 0 where there is none."""
    return np.logaddexp2(log2_counts, np.float32(0)).astype(np.float32, copy=False)


def session_features(query: Query, items: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Which of [Q, M] candidates the session holds, and which is its newest entry's: 1 or 0."""
    held = np.zeros(items.shape, np.bool_)
    session = np.where(query.in_session, query.items, PAD)
    for column in session[:, (session != PAD).any(axis=0)].T:
        held |= (items == column[:, None]) & (column[:, None] != PAD)
    newest = held & (items == session[:, -1:])
    return held.astype(np.float32), newest.astype(np.float32)


def skipped(query: Query, items: NDArray[np.int64], transformer: Transformer) -> NDArray[np.float32]:
    """[Q, M] how much speaks against candidates because what is like them was just skipped: min(2, s^2 / (s + t))^4.

    s sums the cosines above 0 to the skipped ones of the newest entries, the k-th newest counting FADING^k; t is the
    same sum over the wanted ones, for who takes and skips of a kind is not tired of it. The power lets one skip say
    little and several in a row much.
    """
    found, vectors = np.zeros(items.shape, np.float32), transformer.item_vectors()
    newest, is_skip = query.items[:, : -NEWEST - 1 : -1], query.labels[:, : -NEWEST - 1 : -1] <= 0
    known = (newest >= 0) & (newest < len(vectors))
    fading = FADING ** np.arange(newest.shape[1], dtype=np.float32)
    for row in np.flatnonzero((is_skip & known).any(axis=1)).tolist():
        own, is_item = known[row], (items[row] >= 0) & (items[row] < len(vectors))
        likeness = (_unit(vectors[items[row, is_item]]) @ _unit(vectors[newest[row, own]]).T).clip(min=0)
        by_label = np.where(is_skip[row, own], fading[own], 0), np.where(is_skip[row, own], 0, fading[own])
        against, for_it = (likeness @ weights.astype(np.float32) for weights in by_label)
        share = against * against / np.maximum(against + for_it, np.float32(1e-6))
        found[row, is_item] = np.minimum(share, 2) ** 4
    return found


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return unit
