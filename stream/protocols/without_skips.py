# A model that never hears of what was not wanted, to be compared with the one that does.
from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Batch, Model, Query
from models.examples import arranged, cut
from models.registry import build_models
from stream.protocols.wrapped import Wrapped

SUFFIX: Final = " without skips"


def build_pairs(names: Iterable[str], seed: int) -> dict[str, Model]:
    """Models by name, and each by its name and SUFFIX without what was not wanted: the same seed, apart from that."""
    wanted = Wanted()
    deaf = {name + SUFFIX: WithoutSkips(model, wanted) for name, model in build_models(names, seed).items()}
    return {**build_models(names, seed), **deaf}


class Wanted:
    """Queries less their entries with label 0; the last one is kept, so that models share work on it."""

    def __init__(self) -> None:
        self._kept: tuple[Query, Query] | None = None

    def of(self, query: Query) -> Query:
        """The query with its wanted entries alone, again without holes."""
        if self._kept is None or self._kept[0] is not query:
            self._kept = query, arranged(query, (query.items != PAD) & (query.labels > 0))
        return self._kept[1]


class WithoutSkips(Wrapped):
    """A model that neither learns examples with label 0 nor sees such entries in histories; the items it is asked
    about are the same."""

    def __init__(self, model: Model, wanted: Wanted) -> None:
        super().__init__(model)
        self._wanted = wanted

    def learn(self, batch: Batch) -> float:
        """The wanted examples alone; NaN where there is none."""
        rows = np.flatnonzero(batch.labels > 0)
        heard = dataclasses.replace(batch, query=self._wanted.of(batch.query))
        return self.model.learn(cut(heard, rows)) if len(rows) else math.nan

    def score(self, query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        return self.model.score(self._wanted.of(query), items)
