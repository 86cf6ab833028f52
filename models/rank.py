# The rank of a target among the items it is compared with, ties counted half.
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def target_ranks(
    scores: NDArray[np.float32], targets: NDArray[np.int64], excluded: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Rank of each target [Q], from 1: one more than the items above it, plus half of the others equal to it.

    `scores` [Q, N] are those of items 0..N-1. `excluded` [Q, E] names items left out of the ranking (any number
    outside 0..N-1 is no item); the target itself is never left out. A score that is not finite sinks below all
    finite ones and ties with the others; a target outside 0..N-1 is no known item and has rank infinity.
    """
    return ranks_without(scores, targets, None if excluded is None else distinct(excluded, targets))


def distinct(excluded: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """[Q, at most E] the items of each row, each once and none of them the target; -1 where there is none."""
    values = np.sort(excluded, axis=1)
    is_repeated = values == targets[:, None]
    is_repeated[:, 1:] |= values[:, 1:] == values[:, :-1]
    values[is_repeated] = -1
    used: NDArray[np.int64] = values[:, (values >= 0).any(axis=0)]
    return used


def ranks_without(
    scores: NDArray[np.float32], targets: NDArray[np.int64], others: NDArray[np.int64] | None
) -> NDArray[np.float64]:
    """`target_ranks` with what `distinct` gave, which several models' scores may share."""
    num_items = scores.shape[1]
    ranks = np.full(len(targets), np.inf)
    known = np.flatnonzero((targets >= 0) & (targets < num_items))
    if len(known) == 0:
        return ranks
    if len(known) < len(targets):
        scores, targets = scores[known], targets[known]
        others = None if others is None else others[known]
    scores = sunk(scores)
    own = scores[np.arange(len(targets)), targets][:, None]
    pairs = list(zip(scores, own, strict=True))  # row by row: three times as fast as counting over an axis
    above = np.array([np.count_nonzero(row > score) for row, score in pairs])
    equal = np.array([np.count_nonzero(row == score) for row, score in pairs]) - 1  # less the target itself
    if others is not None:
        left_out = (others >= 0) & (others < num_items)
        values = np.take_along_axis(scores, np.where(left_out, others, 0), axis=1)
        above -= np.count_nonzero(left_out & (values > own), axis=1)
        equal -= np.count_nonzero(left_out & (values == own), axis=1)
    ranks[known] = 1.0 + above + 0.5 * equal
    return ranks


def sunk(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scores with NaN and infinity at -inf; the array itself where there is none of them."""
    if scores.size == 0 or bool(scores.max() < np.inf):  # the maximum is NaN where there is one
        return scores
    return np.where(np.isfinite(scores), scores, np.float32(-np.inf))
