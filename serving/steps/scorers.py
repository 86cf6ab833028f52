# Numbers for the candidates: the model asked for, and what orders them where it has nothing to say.
from __future__ import annotations

import logging
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from models.base import Model, Query
from models.popularity import Popularity
from models.rank import sunk
from serving.metrics import ServingMetrics
from serving.moment import Moment
from serving.problems import Problem
from state.home import Home

_LOG = logging.getLogger("runnel.serving")
DEFAULT_MODEL = "blend"
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

    def __call__(self, moment: Moment) -> None:
        assert moment.query is not None
        home, query, items = moment.home, moment.query, moment.candidates
        if len(items) == 0:
            return
        model = chosen_model(home, moment.request.model)
        if model is not None:
            moment.scores = self._scores(model, query, items)
            if moment.request.explain:
                moment.parts = self._parts(model, query, items)
        if model is None or not np.isfinite(moment.scores).any():
            self._fall_back(moment, query)

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

    def _fall_back(self, moment: Moment, query: Query) -> None:
        for name, model in moment.home.models.items():
            if isinstance(model, Popularity):
                scores = self._scores(model, query, moment.candidates)
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


def chosen_model(home: Home[Model], name: str) -> Model | None:
    """The model of that name, the blend (or the first there is) for no name. Raises Problem listing the names."""
    if name:
        if name not in home.models:
            raise Problem(422, f"model: {name!r} is unknown; the models are {', '.join(sorted(home.models))}", "model")
        return home.models[name]
    return home.models.get(DEFAULT_MODEL) or next(iter(home.models.values()), None)
