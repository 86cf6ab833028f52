# What a model is: two verbs over arrays of examples, and the tables that hold what it learned.
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from models.tables import CellTable, RowTable

PAD = -1  # fills a history on its left where a user has fewer entries than the window


@dataclass(frozen=True, slots=True)
class Query:
    """Q users' histories at a moment: L newest entries each, oldest first, padded on the left with PAD.

    All item numbers are those of the store that owns the model.
    """

    items: NDArray[np.int64]  # [Q, L], PAD where there is no entry
    signals: NDArray[np.uint8]  # [Q, L] signal codes
    labels: NDArray[np.float32]  # [Q, L] label of each entry's signal: 1 wanted, 0 not (skip, dislike)
    at: NDArray[np.int64]  # [Q, L] event time, milliseconds
    in_session: NDArray[np.bool_]  # [Q, L] entry belongs to the session of the moment
    now: NDArray[np.int64]  # [Q] event time of the moment, milliseconds
    users: NDArray[np.object_] | None = None  # [Q] ids (bytes) of whose they are; None: nobody's, as users unknown
    order: NDArray[np.uint64] | None = None  # by item: of equal scores the least comes first; None: the least number


@dataclass(frozen=True, slots=True)
class Batch:
    """B examples in arrival order: the history just before each target, and the target."""

    query: Query  # [B] histories
    items: NDArray[np.int64]  # [B] targets
    labels: NDArray[np.float32]  # [B] 1 wanted, 0 not
    weights: NDArray[np.float32]  # [B] how much each counts
    sampled: NDArray[np.bool_] | None = None  # [B] what gradients are computed of; None: of all. Counters take all
    shown: NDArray[np.int64] | None = None  # [B, S] the list that the target was chosen from, by place; PAD: no item


class Model(Protocol):
    """What learns and scores. It knows no Kafka, no disk and no HTTP.

    `score` is pure: it changes no weight, table or counter, also for items and users never seen.
    Two learners fed the same batches with equally seeded generators hold the same bits.
    """

    name: str
    replays: bool  # wants examples drawn from stored records appended to a batch (gradient models)

    @property
    def num_items(self) -> int:
        """Items the model can score: the width of `score(query)`."""
        ...

    def learn(self, batch: Batch) -> float:
        """Update from one batch; the loss before the update. NaN where the model has none, inf where it refused an
        update because a gradient was not finite."""
        ...

    def score(self, query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Scores of `items` ([M] for all queries, or [Q, M]); None scores every known item, giving [Q, num_items].

        Scores of every item are kept for the next call with the same query object: do not write to them.
        """
        ...

    @property
    def tables(self) -> Mapping[str, RowTable | CellTable]:
        """What is saved by item: the learner commits touched rows, a server applies them."""
        ...

    def dense(self) -> dict[str, NDArray[np.float32]]:
        """Dense weights by name, copied; served."""
        ...

    def load_dense(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Take over dense weights (what `dense` gave)."""
        ...

    def training_state(self) -> dict[str, NDArray[np.generic]]:
        """What only the learner needs to resume exactly: optimiser moments, random state, frequency tables."""
        ...

    def load_training_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over what `training_state` gave."""
        ...


@runtime_checkable
class Mixture(Protocol):
    """A model that mixes what others say. It is to learn a batch before they do."""

    parts: Iterable[Model]


@runtime_checkable
class LearnsSequences(Protocol):
    """A model that learns whole sequences in one pass each, besides single examples."""

    window: int  # entries that stand before a target, at most
    pace: float  # factor of its learning rates, 1 on a stream; who trains by epochs lets it fall

    def learn_sequences(self, sequences: Query, weights: NDArray[np.float32]) -> float:
        """Update from the entries of sequences [B, L], each given those before it, but for the first column's; the
        loss as of `learn`, NaN where there is no target.

        `weights` [B, L] say how much an entry counts as a target, 0 not at all. Of more than `window` + 1 entries the
        newest count. A sequence from its user's first entry on has padding before it, for this one to be learned too.
        """
        ...
