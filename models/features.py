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
FADING: Final = np.float32(0.9)  # of what an entry says, at each one after it
ALIKE: Final = np.float32(0.3)  # cosine from which two items are of a kind
AGAINST: Final = np.float32(1 / (1 + 0.9 + 0.81))  # what a skip says: three in a row say 1
FOR_IT: Final = np.float32(0.8)  # a taking: log(.82 / .02) to log(.98 / .18), if who is tired takes 2 %, else 82 %
NEAR: Final = 12.0  # what nearness to a skip says of a user of whom nothing is known
FEW: Final = 3.0  # takings in a history that halve it


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
    """[Q, M] how much speaks against candidates because what is like them was skipped:

        NEAR n / 2^(h / FEW) + min(2, S)^6.

    n is the largest cosine to a skip that nothing was taken after, h the number of takings in the history: the less is
    known of a user, the more one skip says. S is a cumulative sum (Page 1954) that tells when a taste has changed: over
    the newest entries, oldest first, S <- max(0, FADING S + l a), where l = min(1, max(0, cosine) / ALIKE) is the
    likeness of entry and candidate, and a is AGAINST for a skip, -FOR_IT for a taking. The power lets one or two say
    little and three in a row much; a taking between them takes back two of them.
    """
    found, vectors = np.zeros(items.shape, np.float32), transformer.item_vectors()
    newest, is_skip = query.items[:, -NEWEST:], query.labels[:, -NEWEST:] <= 0
    known = (newest >= 0) & (newest < len(vectors))
    for row in np.flatnonzero((is_skip & known).any(axis=1)).tolist():
        own, is_item = known[row], (items[row] >= 0) & (items[row] < len(vectors))
        cosines = (_unit(vectors[newest[row, own]]) @ _unit(vectors[items[row, is_item]]).T).clip(min=0)
        total = near = np.zeros(cosines.shape[1], np.float32)
        for cosine, is_against in zip(cosines, is_skip[row, own], strict=True):
            step = (cosine / ALIKE).clip(max=1) * (AGAINST if is_against else -FOR_IT)
            total = np.maximum(FADING * total + step, 0)
            near = np.maximum(near, cosine) if is_against else np.zeros_like(near)
        unknown = 0.5 ** (np.count_nonzero(query.labels[row] > 0) / FEW)
        found[row, is_item] = NEAR * unknown * near + np.minimum(total, 2) ** 6
    return found


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.float32(1e-12))
    return unit
