# What was shown: slates as served, kept for half an hour, until it is known what was taken of them.
from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.base import PAD
from state.entry import unpack
from state.slate import unpack_impression, unpack_slate

JOIN_MS: Final = 30 * 60 * 1000
_SLATES: Final = 5  # of a user


@dataclass(slots=True)
class _Slate:
    timestamp: int
    request: int
    items: list[int]  # numbers of the learner, PAD for what it does not know; first place first
    seen: set[int] | None = None  # places, where an impression told
    taken: set[int] = field(default_factory=set)

    def was_seen(self, place: int) -> bool:
        return self.seen is None or place in self.seen


class Shown:
    """The newest slates of the users who were served last, in memory: after a restart, what was shown before is not
    known.

    An entry belongs to the newest slate of at most half an hour before it that has its request id; one without a
    request id, to the newest that has its item.
    """

    def __init__(self, max_users: int) -> None:
        self._max_users = max_users
        self._slates: dict[bytes, deque[_Slate]] = {}  # who was served last is last

    def add(self, user: bytes, row: bytes, items: NDArray[np.int64]) -> None:
        """A slate's row, with the learner's numbers of its items (PAD: unknown)."""
        slate = unpack_slate(row)
        slates = self._slates.pop(user, None) or deque(maxlen=_SLATES)
        slates.append(_Slate(slate.timestamp, slate.request, items.tolist()))
        self._slates[user] = slates
        if len(self._slates) > self._max_users:
            del self._slates[next(iter(self._slates))]

    def add_impression(self, user: bytes, row: bytes, items: NDArray[np.int64]) -> None:
        """An impression's row, with the learner's numbers of its items; it tells what of its slate was seen."""
        impression = unpack_impression(row)
        for slate in self._slates.get(user, ()):
            if slate.request == impression.request:
                found = {place for place, item in enumerate(slate.items) if item in set(items.tolist())}
                everything = set(range(len(slate.items))) if not found and not impression.positions else found
                slate.seen = (slate.seen or set()) | everything | set(impression.positions)

    def forget(self, user: bytes) -> None:
        """Drop what a user was shown."""
        self._slates.pop(user, None)

    def beside(self, user: bytes, taken: bytes) -> tuple[int, ...]:
        """The items among which the one of this packed entry was chosen, by their places in the slate it belongs to.

        PAD stands where an item is unknown, was taken before, or was not seen as impressions told; without impressions
        all of a slate counts as seen. Empty where the entry belongs to no slate.
        """
        slates = self._slates.get(user)
        if not slates:
            return ()
        entry = unpack(taken)
        for slate in reversed(slates):
            is_its = slate.request == entry.request if entry.request else True
            if is_its and 0 <= entry.timestamp - slate.timestamp <= JOIN_MS and entry.item in slate.items:
                gone = slate.taken - {entry.item}
                slate.taken.add(entry.item)
                return tuple(
                    item if item == entry.item or (item not in gone and slate.was_seen(place)) else PAD
                    for place, item in enumerate(slate.items)
                )
        return ()
