# Where candidates come from: each source gives item numbers, best first; together they are a few hundred.
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from models.base import Model, Query
from models.candidates import best_items, first_places
from models.popularity import Popularity
from serving.metrics import ServingMetrics
from serving.moment import Moment, Moments
from serving.steps.scorers import MODEL_ERRORS, chosen_model
from state.home import Home

_LOG = logging.getLogger("runnel.serving")


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """How many candidates a source gives."""

    num_each: int = 50  # as in learning; three times n where that is more


@runtime_checkable
class Proposer(Protocol):
    """A model that finds candidates without scoring the whole catalogue."""

    def candidates(self, query: Query, k: int) -> dict[str, NDArray[np.int64]]:
        """A source's name to its [Q, up to k] items, best first, PAD where it has fewer."""
        ...


class Sources:
    """Joins the sources' candidates; an item that several give keeps the first one's name.

    With `candidates` in the request there are no others. A model named by the request proposes for itself alone.
    """

    name = "sources"

    def __init__(self, config: SourceConfig, metrics: ServingMetrics) -> None:
        self._config, self._metrics = config, metrics
        self._errors = metrics.model_errors.labels(self.name)

    def __call__(self, moments: Moments) -> None:
        try:
            proposals = list(self._proposals(moments))
        except MODEL_ERRORS:
            if len(moments.each) == 1:
                raise
            for moment in moments.each:  # alone each tells whether the error is its own
                self(Moments([moment]))
            return
        for place, moment in enumerate(moments.each):
            self._join(moment, [(name, items[place]) for name, items in proposals if len(items[place])])

    def _join(self, moment: Moment, proposals: Sequence[tuple[str, NDArray[np.int64]]]) -> None:
        moment.source_names = [name for name, _ in proposals]
        if not proposals:
            return
        joined = np.concatenate([items for _, items in proposals])
        origins = np.repeat(np.arange(len(proposals), dtype=np.uint8), [len(items) for _, items in proposals])
        first = first_places(joined)
        first = first[(joined[first] >= 0) & (joined[first] < moment.home.num_items)]
        moment.candidates, moment.origins = joined[first], origins[first]

    def _proposals(self, moments: Moments) -> Iterator[tuple[str, Sequence[NDArray[np.int64]]]]:
        """Names of sources, and what each gives for each moment."""
        query, request, home = moments.query, moments.each[0].request, moments.each[0].home
        if request.candidates is not None:
            yield "request", [np.fromiter(map(number_of(home), request.candidates), np.int64)]
            return
        num, model = max(self._config.num_each, 3 * request.n), chosen_model(home, request.model)
        if model is not None:
            yield from self._proposed(model, query, num)
        if request.model:
            return
        popular = next((each for each in home.models.values() if isinstance(each, Popularity)), None)
        if popular is not None:
            yield "popularity", [popular.top(num, query.order)] * len(moments.each)
        yield "newest", [home.catalogue.newest(num)] * len(moments.each)  # so that a new item can be tried

    def _proposed(self, model: Model, query: Query, k: int) -> list[tuple[str, Sequence[NDArray[np.int64]]]]:
        """A model's sources, [Q, up to k] items each; none where it fails on a single query, and what it raises where
        it fails on several."""
        try:
            if issubclass(type(model), Proposer):
                proposed = cast("Proposer", model).candidates(query, k)
            else:
                proposed = {model.name: best_items(model.score(query), k, query.order)}
        except MODEL_ERRORS as error:
            self._errors.inc()
            _LOG.warning("model %s proposes nothing for %d: %s", model.name, len(query.now), error, exc_info=True)
            if len(query.now) > 1:
                raise
            return []
        return [(name, list(items)) for name, items in proposed.items()]


def widen(moment: Moment) -> None:
    """Every item there is becomes a candidate; those proposed already keep their source."""
    num_items = moment.home.num_items
    origins = np.full(num_items, len(moment.source_names), np.uint8)
    origins[moment.candidates] = moment.origins
    moment.source_names = [*moment.source_names, "catalogue"]
    moment.candidates, moment.origins = np.arange(num_items, dtype=np.int64), origins


def number_of(home: Home[Model]) -> Callable[[str], int]:
    """An item's number, -1 where the home does not know it."""
    return home.dictionary.find if home.dictionary is not None else lambda _: -1
