# Negatives of a batch: what others took lately, and a few of all items, with the chance each had to be drawn.
from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.base import PAD


class RecentItems:
    """The last `capacity` items taken, and how often each stands among them: the stream's frequencies of now.

    Shares come from the ring itself, so they are exact for what is drawn from it (models.md §30.5 estimates them from
    gaps between sightings instead).
    """

    def __init__(self, capacity: int) -> None:
        self.ring: NDArray[np.int64] = np.full(capacity, -1, np.int64)
        self.num_taken = 0  # ever; the next one goes to num_taken % capacity
        self.counts: NDArray[np.int64] = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return min(self.num_taken, len(self.ring))

    def add(self, items: NDArray[np.int64], num_items: int) -> None:
        """Take up items, oldest first."""
        if num_items > len(self.counts):
            self.counts = np.pad(self.counts, (0, max(num_items, 2 * len(self.counts)) - len(self.counts)))
        items = items[-len(self.ring) :]
        places = (self.num_taken + np.arange(len(items))) % len(self.ring)
        gone = self.ring[places]
        np.subtract.at(self.counts, gone[gone >= 0], 1)
        np.add.at(self.counts, items, 1)
        self.ring[places] = items
        self.num_taken += len(items)

    def draw(self, num: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """`num` items of the ring, with replacement."""
        return self.ring[rng.integers(len(self), size=num)] if len(self) else np.zeros(0, np.int64)

    def shares(self, items: NDArray[np.int64]) -> NDArray[np.float64]:
        """Each item's share of the ring (items below the `num_items` last told); half a taking for one not in it."""
        shares: NDArray[np.float64] = np.maximum(self.counts[items], 0.5) / max(len(self), 1)
        return shares

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Ring and count, copied."""
        return {"recent_ring": self.ring.copy(), "recent_taken": np.array([self.num_taken], np.int64)}

    def load(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over what `state` gave."""
        self.ring = state["recent_ring"].astype(np.int64)
        self.num_taken = int(state["recent_taken"][0])
        self.counts = np.bincount(self.ring[self.ring >= 0], minlength=1)


def inclusion(shares: NDArray[np.float64], num_drawn: int, num_uniform: int, num_items: int) -> NDArray[np.float64]:
    """Chance that an item is among `num_drawn` draws by share and `num_uniform` draws out of all items.

    1 / chance weights a drawn item so that sums over the drawn estimate sums over all (Horvitz & Thompson 1952); for
    rare items it is the log q correction of Yi et al. 2019, for frequent ones it vanishes.
    """
    missed = num_drawn * np.log1p(-np.minimum(shares, 0.999)) + num_uniform * np.log1p(-1.0 / max(num_items, 2))
    chance: NDArray[np.float64] = -np.expm1(missed)
    return chance


def not_competing(
    session: NDArray[np.int64], columns: NDArray[np.int64], targets: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """[B, C] which of the columns, ascending items, do not compete with a target: itself (its place among the columns,
    -1 where it is none of them), and the items of its session [B, L], PAD between them."""
    rows, entries = np.nonzero(session != PAD)
    items = session[rows, entries]
    places = np.minimum(np.searchsorted(columns, items), len(columns) - 1)
    found = columns[places] == items
    hidden = np.zeros((len(targets), len(columns)), np.bool_)
    hidden[rows[found], places[found]] = True
    among = np.flatnonzero(targets >= 0)
    hidden[among, targets[among]] = True
    return hidden
