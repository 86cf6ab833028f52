# From whole score rows and lists of several sources to one set of candidates a query.
from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.base import PAD
from models.rank import sunk

Order: TypeAlias = NDArray[np.uint64] | None  # [N or more] by item number, what ties are settled by; see Query.order


def best_items(scores: NDArray[np.float32], k: int, order: Order = None, above: float = -np.inf) -> NDArray[np.int64]:
    """[Q, min(k, N)] items with the highest scores [Q, N], best first; PAD for a score not finite or not `above`.

    `order` settles ties, as it does in `top`.
    """
    scores = sunk(scores)
    if len(scores) == 1 or order is not None:
        return np.stack([_best_of_one(row, k, order, above) for row in scores])
    import torch  # here and not above: the fold stage, and a learner of counters alone, do without

    found, items = torch.topk(torch.from_numpy(scores), min(k, scores.shape[1]), dim=1)
    kept: NDArray[np.int64] = torch.where(found > above, items, PAD).numpy()
    return kept


def _best_of_one(values: NDArray[np.float32], k: int, order: Order, above: float) -> NDArray[np.int64]:
    if above == -np.inf:
        best = top(values, k, order)
        return np.where(np.isfinite(values[best]), best, PAD)
    high = np.flatnonzero(values > above)  # few, where a bound is given
    best = high[top(values[high], k, None if order is None else order[high])]
    return np.concatenate([best, np.full(min(k, len(values)) - len(best), PAD)])


def top(values: NDArray[np.number], k: int, order: Order = None) -> NDArray[np.int64]:
    """[min(k, N)] places of the greatest of `values` [N], greatest first, of equal ones the least of `order` first.

    Without `order` the first place comes first, and which of those equal to the least is left out is not said. Exact
    in little more than one pass: the k greatest lie in the k blocks with the greatest maxima, so only those blocks are
    looked into. 100 of 100,000 take 0.05 ms, a partition of them all 0.25; where other blocks too reach the least of
    the k, `order` costs a pass more.
    """
    if k < 1:
        return np.zeros(0, np.int64)
    size = int((len(values) / k) ** 0.5)  # of a block
    if size > 2:
        num_blocks = len(values) // size
        blocks = values[: size * num_blocks].reshape(size, num_blocks)  # a block is a column: one maximum of rows
        greatest = blocks.max(axis=0)
        chosen = np.argpartition(greatest, num_blocks - k)[num_blocks - k :]
        rest = np.arange(size * num_blocks, len(values))
        places = np.concatenate([(chosen + num_blocks * np.arange(size)[:, None]).ravel(), rest])
    else:
        places = np.arange(len(values))
    found = values[places]
    if k < len(found):
        best = np.argpartition(found, len(found) - k)[len(found) - k :]
        if order is not None:
            least = found[best].min()
            if size > 2 and np.count_nonzero(greatest >= least) > k:  # some equal to it were not looked at
                places, best, found = np.arange(len(values)), places[best], values
            best = _settled(found, best, least, order[places])
        places, found = places[best], found[best]
    ordered: NDArray[np.int64] = places[np.lexsort((places if order is None else order[places], -found))]
    return ordered


def _settled(
    values: NDArray[np.number], places: NDArray[np.int64], least: np.number, order: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """As many places of the greatest, those equal to the least of them by `order`; what is not finite is no matter."""
    if not np.isfinite(least):
        return places
    equal, above = np.flatnonzero(values == least), places[values[places] > least]
    num_equal = len(places) - len(above)
    if len(equal) > num_equal:
        equal = equal[np.argpartition(order[equal], num_equal - 1)[:num_equal]]
    return np.concatenate([above, equal])


def union(sources: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """[Q, K] all items of the sources [Q, k], each once a row, ascending; PAD in the places that were repeats."""
    items = np.sort(np.concatenate(list(sources), axis=1), axis=1)
    items[:, 1:][items[:, 1:] == items[:, :-1]] = PAD
    return items


def first_places(items: NDArray[np.int64]) -> NDArray[np.int64]:
    """[distinct items] where each of `items` [M] stands first, ascending: in half of np.unique's time."""
    order = items.argsort(kind="stable")
    ordered = items[order]
    is_first = np.ones(len(items), np.bool_)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return np.sort(order[is_first])


def places_of(items: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """[Q] where each target stands in its row of items [Q, K], -1 where it does not."""
    places = np.full(len(targets), -1, np.int64)
    rows, found = np.nonzero(items == targets[:, None])
    places[rows] = found
    return places


def picked(scores: NDArray[np.float32], items: NDArray[np.int64], unknown: float = 0.0) -> NDArray[np.float32]:
    """[Q, M] the scores [Q, N] of items [M], or of each query's [Q, M]; `unknown` for one beyond N, not met by this
    model."""
    known = (items >= 0) & (items < scores.shape[1])
    if not known.any():
        return np.full((len(scores), items.shape[-1]), unknown, np.float32)
    found = scores[np.arange(len(scores))[:, None], np.where(known, items, 0)]  # half of np.take_along_axis' time
    return np.where(known, found, np.float32(unknown))
