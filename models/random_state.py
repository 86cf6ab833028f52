# The state of a numpy generator as an array of bytes, for checkpoints.
from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray


def generator_state(rng: np.random.Generator) -> NDArray[np.uint8]:
    """The state as JSON bytes."""
    return np.frombuffer(json.dumps(rng.bit_generator.state, sort_keys=True).encode(), np.uint8).copy()


def load_generator_state(rng: np.random.Generator, state: NDArray[np.generic]) -> None:
    """Put a generator of the same kind into that state."""
    rng.bit_generator.state = json.loads(state.astype(np.uint8).tobytes())
