# From scored candidates to places: best first, not too alike, and now and then a try.
from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh64_intdigest

from models.base import Model
from serving.moment import Moment, Pick
from state.home import Home


@dataclass(frozen=True, slots=True)
class SelectConfig:
    """How a slate departs from the plain order of scores."""

    epsilon: float = 0.05  # chance that a place goes to a candidate drawn evenly instead of the best one
    diversity: float = 0.05  # 0: scores alone; 1: likeness to the places above alone (maximal marginal relevance)
    pool_factor: int = 5  # candidates of which diversity and exploration choose, as a multiple of n


_PLAIN = SelectConfig(epsilon=0.0, diversity=0.0)  # a model asked for by name shows itself as it is


@runtime_checkable
class HasItemVectors(Protocol):
    """A model that finds items by nearest neighbours."""

    def item_vectors(self) -> NDArray[np.float32]:
        """[num_items, width]"""
        ...


class Select:
    """Fills the places one after the other: the best remaining candidate, or with chance epsilon any of the pool.

    The propensity of a place is the chance that it was given to its item, the places above being as they are:
    (1 - epsilon) for the best remaining one, plus epsilon / size of the remaining pool for everyone in it. Draws are
    seeded from user, session offset and model version, so the same three give the same list.
    """

    name = "select"

    def __init__(self, config: SelectConfig) -> None:
        self._config = config

    def __call__(self, moment: Moment) -> None:
        request, config = moment.request, _PLAIN if moment.request.model else self._config
        order = best_first(moment.is_seen, moment.scores, moment.home.catalogue.born_at(moment.candidates))
        pool = order[: max(request.n * config.pool_factor, 50)]
        vectors = unit_vectors(moment.home, moment.candidates[pool]) if config.diversity else None
        alike = None if vectors is None else config.diversity * (vectors @ vectors.T)
        filled = list(_filled(config, request.n, len(pool), alike, random.Random(_seed(moment))))
        places = pool[np.array([taken for taken, _, _ in filled], np.int64)]
        columns = (values[places].tolist() for values in (moment.candidates, moment.scores, moment.origins))
        moment.slate = [
            Pick(item, score, "exploration" if is_trial else moment.source_names[origin], propensity, place)
            for item, score, origin, place, (_, propensity, is_trial) in zip(
                *columns, places.tolist(), filled, strict=True
            )
        ]


def _filled(
    config: SelectConfig, n: int, size: int, alike: NDArray[np.float32] | None, draw: random.Random
) -> Iterator[tuple[int, float, bool]]:
    """Of a pool of that size, best first, which takes each place, its propensity, and whether it was a try."""
    likeness = np.zeros(size, np.float32)  # to the likest place above, weighted
    relevance = (1 - config.diversity) * relevance_of(size)  # -inf once taken
    for num_left in range(size, max(size - n, 0), -1):
        best = taken = int((relevance - likeness).argmax())
        if config.epsilon and draw.random() < config.epsilon:
            taken = int(np.flatnonzero(np.isfinite(relevance))[draw.randrange(num_left)])
        yield taken, config.epsilon / num_left + (1 - config.epsilon if taken == best else 0.0), taken != best
        relevance[taken] = -np.inf
        if alike is not None:
            np.maximum(likeness, alike[taken], out=likeness)


@lru_cache(maxsize=64)  # np.linspace takes 30 us
def relevance_of(size: int) -> NDArray[np.float32]:
    """[size] 1 for the best falling evenly to 0: ranks, because models score on scales of their own. Do not write to
    it: it is kept."""
    return np.linspace(1, 0, size, dtype=np.float32) if size > 1 else np.ones(size, np.float32)


def best_first(
    is_seen: NDArray[np.bool_], scores: NDArray[np.float32], born_at: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Places: unseen items, then by falling score, ties by the newest item first, then as they stand."""
    return np.lexsort((-born_at, -scores, is_seen))


def item_vectors(home: Home[Model]) -> NDArray[np.float32] | None:
    """[N, width] of the first model that has vectors, a view; None where none has or it has learned nothing."""
    # Of a class Python remembers whether it has the methods; of an object it looks anew, 15 us each time.
    model = next((each for each in home.models.values() if issubclass(type(each), HasItemVectors)), None)
    vectors = None if model is None else cast("HasItemVectors", model).item_vectors()
    return None if vectors is None or len(vectors) == 0 else vectors


def unit_vectors(home: Home[Model], items: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """[M, width] item vectors of length 1, zeros where an item has none; None where no model has vectors."""
    vectors = item_vectors(home)
    if vectors is None:
        return None
    found = vectors[np.minimum(items, len(vectors) - 1)]
    lengths = np.sqrt(np.einsum("md,md->m", found, found))
    is_unit = np.isfinite(lengths) & (lengths > 0) & (items < len(vectors))  # what is not finite is like none
    found[~is_unit], lengths[~is_unit] = 0.0, 1.0
    units: NDArray[np.float32] = found / lengths[:, None]
    return units


def _seed(moment: Moment) -> int:
    return xxh64_intdigest(f"{moment.request.user_id}\0{moment.session_offset}\0{moment.home.version}".encode())
