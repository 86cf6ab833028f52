# What the learner of a gradient model needs to resume exactly, beside the model's rows and weights.
from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.negatives import RecentItems
from models.optimizer import DenseAdam
from models.random_state import generator_state, load_generator_state


class Resumes:
    """The training state of models that draw negatives from the newest takings and step with Adam."""

    adam: DenseAdam
    recent: RecentItems
    rng: np.random.Generator
    refused_updates: int  # steps not taken because a gradient was not finite

    def training_state(self) -> dict[str, NDArray[np.generic]]:
        """As Model says."""
        own = {"generator": generator_state(self.rng), "refused_updates": np.array([self.refused_updates])}
        return {**self.adam.state(), **self.recent.state(), **own}

    def load_training_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """As Model says."""
        self.adam.load(state)
        self.recent.load(state)
        load_generator_state(self.rng, state["generator"])
        self.refused_updates = int(state["refused_updates"][0])
