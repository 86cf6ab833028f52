# A model as it is, for those that change what it hears and nothing else.
from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.base import Batch, Model, Query
from models.tables import CellTable, RowTable
from state.model_state import UserTableLike, user_tables


class Wrapped:
    """Hands everything on to a model: it satisfies the same contract."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.name, self.replays, self.config = model.name, model.replays, getattr(model, "config", None)

    @property
    def num_items(self) -> int:
        return self.model.num_items

    @property
    def tables(self) -> Mapping[str, RowTable | CellTable]:
        return self.model.tables

    @property
    def user_tables(self) -> Mapping[str, UserTableLike]:
        return user_tables(self.model)

    def learn(self, batch: Batch) -> float:
        return self.model.learn(batch)

    def score(self, query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        return self.model.score(query, items)

    def dense(self) -> dict[str, NDArray[np.float32]]:
        return self.model.dense()

    def load_dense(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self.model.load_dense(weights)

    def training_state(self) -> dict[str, NDArray[np.generic]]:
        return self.model.training_state()

    def load_training_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self.model.load_training_state(state)
