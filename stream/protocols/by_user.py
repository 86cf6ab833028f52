# Figures as one number a user, whose mean is the figure and whose standard error is the figure's.
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def ratio(amounts: NDArray[np.floating], sizes: NDArray[np.floating]) -> NDArray[np.float64]:
    """[U] numbers whose mean is sum(amounts) / sum(sizes), of amounts [U] and sizes [U].

    They are the ratio plus each user's influence on it (the delta method), so their standard error is that of drawing
    users anew, as a bootstrap over users would. 0 where all sizes are.
    """
    total = float(np.sum(sizes, dtype=np.float64))
    if total == 0.0:
        return np.zeros(len(sizes))
    found = float(np.sum(amounts, dtype=np.float64)) / total
    values: NDArray[np.float64] = found + (amounts - found * sizes) * (len(sizes) / total)
    return values


def sums(values: NDArray[np.floating], users: NDArray[np.int64], num_users: int) -> NDArray[np.float64]:
    """[num_users] the sum of each user's values."""
    found: NDArray[np.float64] = np.bincount(users, weights=values, minlength=num_users).astype(np.float64)
    return found


def auc(
    scores: NDArray[np.floating], wanted: NDArray[np.bool_], users: NDArray[np.int64], num_users: int
) -> NDArray[np.float64]:
    """[num_users] numbers whose mean is the chance that a wanted one of all scores [T] is above an unwanted one, ties
    half; errors as in `ratio` (the components of DeLong et al. 1988, added up by user). 0.5 without both kinds.
    """
    above, below = _placements(scores, wanted)
    if len(above) == 0 or len(below) == 0:
        return np.full(num_users, 0.5)
    found = float(above.mean())
    influence = np.empty(len(scores))
    influence[wanted], influence[~wanted] = (above - found) / len(above), (below - found) / len(below)
    return found + num_users * sums(influence, users, num_users)


def auc_within(
    scores: NDArray[np.floating], wanted: NDArray[np.bool_], users: NDArray[np.int64], num_users: int
) -> NDArray[np.float64]:
    """[num_users] the same of the mean of each user's own chance, users counting by their tests; those of one kind
    alone say nothing."""
    order = np.argsort(users, kind="stable")
    chances, sizes = np.zeros(num_users), np.zeros(num_users)
    for own in np.split(order, np.flatnonzero(np.diff(users[order])) + 1):
        if len(own) and 0 < np.count_nonzero(wanted[own]) < len(own):
            sizes[users[own[0]]] = len(own)
            chances[users[own[0]]] = _placements(scores[own], wanted[own])[0].mean()
    return ratio(chances * sizes, sizes)


def _placements(
    scores: NDArray[np.floating], wanted: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The share of unwanted ones below each wanted one, and of wanted ones above each unwanted one, ties half."""
    good, bad = scores[wanted], scores[~wanted]
    return _share_below(good, bad), 1.0 - _share_below(bad, good)


def _share_below(values: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float64]:
    ordered = np.sort(others)
    both = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    return np.asarray(both / max(2 * len(others), 1), np.float64)
