# What a batch must fulfil before anything learns from it.
from __future__ import annotations

import numpy as np

from models.base import Batch


def check_batch(batch: Batch) -> None:
    """Raise ValueError, naming the field, when a batch cannot be learned from."""
    for name, values in (("labels", batch.labels), ("weights", batch.weights)):
        if not np.isfinite(values).all():
            raise ValueError(f"batch.{name} holds a value that is not finite")
    if (batch.weights < 0).any():
        raise ValueError("batch.weights holds a value below 0")
    if (batch.items < 0).any():
        raise ValueError("batch.items holds a target below 0")


def num_items_of(batch: Batch) -> int:
    """One more than the largest item number in the batch, histories included."""
    return max(int(batch.items.max(initial=-1)), int(batch.query.items.max(initial=-1))) + 1
