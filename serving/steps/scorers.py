# Numbers for the candidates: the model asked for, and what orders them where it has nothing to say.
from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Model, Query
from models.popularity import Popularity
from models.rank import sunk
from serving.metrics import ServingMetrics
from serving.moment import NO_ITEMS, Moment, Moments
from serving.problems import Problem
from state.home import Home

_LOG = logging.getLogger("runnel.serving")
DEFAULT_MODEL = "blend"
_MOST_TOGETHER = 1000  # candidates of a moment: with few left after its filter, one may have the whole catalogue
# What arithmetic over tables raises that do not fit together. One request is not worth more than the others' answers.
MODEL_ERRORS = (ArithmeticError, LookupError, RuntimeError, ValueError)


@runtime_checkable
class Explainer(Protocol):
    """A model whose scores are sums over parts."""

    def explain(self, query: Query, items: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """By name, what each part adds to the scores of `items`: [Q, M]."""
        ...


class Score:
    """Scores by the request's model; where none of them is finite, or it fails, by popularity, then by newness."""

    name = "score"

    def __init__(self, metrics: ServingMetrics) -> None:
        self._metrics, self._errors = metrics, metrics.model_errors.labels(self.name)

    def __call__(self, moments: Moments) -> None:
        model = chosen_model(moments.each[0].home, moments.each[0].request.model)
        if model is not None:
            for moment in self._score_together(model, moments):
                self._score(model, moment)
        for moment in moments.each:
            if len(moment.candidates) and not np.isfinite(moment.scores).any():
                self._fall_back(moment)

    def _score_together(self, model: Model, moments: Moments) -> list[Moment]:
        """Score what can be scored at once; the moments that are left: an only one, those with very many candidates, as
        wide as which all others' rows would be, and all of them where the model fails."""
        if len(moments.each) == 1:
            return list(moments.each)
        candidates = (moment.candidates for moment in moments.each)
        items = _side_by_side([some if len(some) <= _MOST_TOGETHER else NO_ITEMS for some in candidates])
        if items.size == 0:
            return list(moments.each)
        try:
            scores = sunk(model.score(moments.query, items))  # of all: the models know this very query
        except MODEL_ERRORS as error:
            self._failed(model, "does not score several together", error)
            return list(moments.each)  # alone each tells whether the error is its own
        for row, moment in zip(scores, moments.each, strict=True):
            moment.scores = row[: len(moment.candidates)]
        return [moment for moment in moments.each if len(moment.candidates) > _MOST_TOGETHER]

    def _score(self, model: Model, moment: Moment) -> None:
        assert moment.query is not None
        if len(moment.candidates) == 0:
            return
        moment.scores = self._scores(model, moment.query, moment.candidates)
        if moment.request.explain:
            moment.parts = self._parts(model, moment.query, moment.candidates)

    def _parts(self, model: Model, query: Query, items: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """What the score is the sum of, by name: one part where the model mixes none; nothing where it fails."""
        if not issubclass(type(model), Explainer):
            return {model.name: self._scores(model, query, items)}
        try:
            return {name: added[0] for name, added in cast("Explainer", model).explain(query, items).items()}
        except MODEL_ERRORS as error:
            self._failed(model, "explains nothing", error)
            return {}

    def _failed(self, model: Model, what: str, error: Exception) -> None:
        self._errors.inc()
        _LOG.warning("model %s %s: %s", model.name, what, error, exc_info=True)

    def _fall_back(self, moment: Moment) -> None:
        assert moment.query is not None
        for name, model in moment.home.models.items():
            if isinstance(model, Popularity):
                scores = self._scores(model, moment.query, moment.candidates)
                if np.isfinite(scores).any():
                    moment.scores = scores
                    self._metrics.fallbacks.labels(name).inc()
                    return
        moment.scores = moment.home.catalogue.born_at(moment.candidates).astype(np.float32)
        self._metrics.fallbacks.labels("newest").inc()

    def _scores(self, model: Model, query: Query, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """[M] what the model says of the items; -inf where that is not finite, or where the model fails."""
        try:
            scores: NDArray[np.float32] = sunk(model.score(query, items)[0])
        except MODEL_ERRORS as error:
            self._failed(model, "does not score", error)
            return np.full(len(items), -np.inf, np.float32)
        return scores


def _side_by_side(lists: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """[Q, M] the lists as rows, PAD behind those that are shorter."""
    rows = np.full((len(lists), max(map(len, lists))), PAD, np.int64)
    for row, items in zip(rows, lists, strict=True):
        row[: len(items)] = items
    return rows


def chosen_model(home: Home[Model], name: str) -> Model | None:
    """The model of that name, the blend (or the first there is) for no name. Raises Problem listing the names."""
    if name:
        if name not in home.models:
            raise Problem(422, f"model: {name!r} is unknown; the models are {', '.join(sorted(home.models))}", "model")
        return home.models[name]
    return home.models.get(DEFAULT_MODEL) or next(iter(home.models.values()), None)
