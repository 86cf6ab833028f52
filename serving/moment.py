# One request on its way through the steps: what each step finds and leaves.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.base import Model, Query
from models.examples import joined
from serving.problems import Problem
from serving.schemas import RecommendationRequest, SlateReply
from state.home import Home
from state.record import UserRecord
from state.store import Store

NO_ITEMS: NDArray[np.int64] = np.zeros(0, np.int64)
NO_SCORES: NDArray[np.float32] = np.zeros(0, np.float32)


@dataclass(slots=True)
class Pick:
    """One place of the slate."""

    item: int
    score: float
    source: str
    propensity: float
    place: int  # among the candidates; -1 where it is none


@dataclass(slots=True)
class Moment:
    """A request, the version that answers it, and what the steps have found so far. Item numbers are the home's."""

    request: RecommendationRequest
    store: Store  # the fold stage's, where the record is read
    home: Home[Model]
    now: int  # clock of the request, milliseconds; the list does not depend on it where the home has learned anything
    request_id: str
    # record
    record: UserRecord | None = None
    session_offsets: dict[str, int] = field(default_factory=dict)  # by partition
    # query
    query: Query | None = None  # Q = 1
    just_skipped: set[int] = field(default_factory=set)
    # sources, filters
    candidates: NDArray[np.int64] = field(default_factory=lambda: NO_ITEMS)  # [M] distinct
    origins: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))  # [M] index into source_names
    source_names: list[str] = field(default_factory=list)
    is_seen: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))  # [M] back only to fill n places
    # score
    scores: NDArray[np.float32] = field(default_factory=lambda: NO_SCORES)  # [M]; -inf sinks
    parts: dict[str, NDArray[np.float32]] = field(
        default_factory=dict
    )  # with `explain`: [M] by name, which add up to the score
    # select, respond
    slate: list[Pick] = field(default_factory=list)
    reply: SlateReply | None = None
    problem: Problem | None = None  # why there is none

    @property
    def session_offset(self) -> int:
        """How far the record stands, as one number that only grows."""
        return sum(self.session_offsets.values())

    def keep(self, those: NDArray[np.bool_] | NDArray[np.int64]) -> None:
        """Drop the candidates where a mask [M] is False, or all but those at these places, and take their order."""
        self.candidates, self.origins = self.candidates[those], self.origins[those]


@dataclass
class Moments:
    """Moments of one version whose requests ask for lists of the same length from the same model: models look at all
    of them at once. Requests that name their candidates come one at a time."""

    each: Sequence[Moment]

    def refuse(self) -> None:
        """Go on without those that have a problem."""
        if any(moment.problem is not None for moment in self.each):
            self.each = [moment for moment in self.each if moment.problem is None]
            vars(self).pop("query", None)

    @cached_property
    def query(self) -> Query:
        """[Q] of all, once each has its own: one object, by which models know what they have computed."""
        queries = [moment.query for moment in self.each if moment.query is not None]
        return queries[0] if len(queries) == 1 else joined(queries)
