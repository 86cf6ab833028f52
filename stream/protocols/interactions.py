# Interactions of a data set as arrays, and the examples and queries that models learn and are tested by.
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Batch, Query

_STEP_MS = 60_000  # between a user's interactions where a data set has an order and no clock
_START_MS = 1_000_000_000_000


@dataclass(frozen=True)
class Interactions:
    """N interactions, user by user, each user's in order (any, where `is_ordered` is not set).

    Users and items are numbered from 0. All interactions are one signal with label and weight 1.
    """

    users: NDArray[np.int64]  # [N] ascending
    items: NDArray[np.int64]  # [N]
    num_users: int
    num_items: int
    is_ordered: bool = True

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """[num_users + 1] where each user's interactions begin."""
        return np.searchsorted(self.users, np.arange(self.num_users + 1))

    @cached_property
    def is_last(self) -> NDArray[np.bool_]:
        """[N] whether it is its user's last, and not its only one."""
        counts = np.diff(self.starts)
        found = np.zeros(len(self.items), bool)
        found[self.starts[1:][counts > 1] - 1] = True
        return found

    def less_last(self) -> Interactions:
        """All but each user's last."""
        return replace(self, users=self.users[~self.is_last], items=self.items[~self.is_last])

    def batches(
        self, rng: np.random.Generator, size: int, max_entries: int, chosen: NDArray[np.bool_] | None = None
    ) -> Iterator[Batch]:
        """One epoch: every interaction once, or every `chosen` [N] one, in an order drawn anew, as batches of `size`.

        Its history is what stands before it, at most `max_entries`; without an order, as many
        drawn from the user's others.
        """
        order = rng.permutation(len(self.items) if chosen is None else np.flatnonzero(chosen))
        yield from self._examples(rng, order, size, max_entries)

    def streamed(self, rng: np.random.Generator, size: int, max_entries: int) -> Iterator[Batch]:
        """The same as a stream would bring it: each user's in their order, from all users at once, and every user's
        last near the end."""
        counts, starts = np.diff(self.starts), self.starts
        places = np.arange(len(self.items)) - starts[self.users]
        yield from self._examples(
            rng, np.argsort((places + rng.random(len(places))) / counts[self.users]), size, max_entries
        )

    def _examples(
        self, rng: np.random.Generator, order: NDArray[np.int64], size: int, max_entries: int
    ) -> Iterator[Batch]:
        starts = self.starts
        for begin in range(0, len(order), size):
            places = order[begin : begin + size]
            users = self.users[places]
            if self.is_ordered:
                entries = _up_to(places, starts[users], max_entries)
            else:
                entries = _others(rng, places, starts[users], starts[users + 1], max_entries)
            ones = np.ones(len(places), np.float32)
            yield Batch(self._query(users, entries, places - starts[users]), self.items[places], ones, ones)

    def sequences(
        self, rng: np.random.Generator, size: int, length: int
    ) -> Iterator[tuple[Query, NDArray[np.float32]]]:
        """One epoch: users' interactions in pieces of `length`, the entry before each piece with it, in an order drawn
        anew, as `size` sequences at a time and the weight of each entry. Every interaction is a target once."""
        starts = self.starts
        numbers = -(-np.diff(starts) // length)  # of pieces
        users = np.repeat(np.arange(self.num_users), numbers)
        nth = np.arange(len(users)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
        ends = starts[users + 1] - length * nth
        order = rng.permutation(len(users))
        for begin in range(0, len(order), size):
            places = order[begin : begin + size]
            entries = _up_to(ends[places], starts[users[places]], length + 1)
            query = self._query(users[places], entries, ends[places] - starts[users[places]])
            yield query, query.labels

    def queries(self, users: NDArray[np.int64], max_entries: int) -> Query:
        """The newest `max_entries` of each of these users, asked after their last."""
        ends = self.starts[users + 1]
        return self._query(users, _up_to(ends, self.starts[users], max_entries), ends - self.starts[users])

    def _query(self, users: NDArray[np.int64], entries: NDArray[np.int64], now: NDArray[np.int64]) -> Query:
        """Queries at places `now` of their users' orders; `entries` [Q, L] are interactions, -1 on the left."""
        present = entries >= 0
        since = np.where(present, entries - self.starts[users][:, None], 0)
        return Query(
            items=np.where(present, self.items[entries], PAD),
            signals=np.zeros(entries.shape, np.uint8),
            labels=present.astype(np.float32),
            at=np.where(present, _START_MS + _STEP_MS * since, 0),
            in_session=present,  # nothing says where one ends, and its items are not recommended again
            now=_START_MS + _STEP_MS * now,
            users=user_names(users),
        )


def user_names(users: NDArray[np.int64]) -> NDArray[np.object_]:
    """[Q] ids of numbered users."""
    names = np.empty(len(users), object)
    names[:] = [b"%d" % user for user in users.tolist()]
    return names


def _up_to(ends: NDArray[np.int64], starts: NDArray[np.int64], num: int) -> NDArray[np.int64]:
    """[Q, num] the `num` places before each end, -1 before its start."""
    places = ends[:, None] - np.arange(num, 0, -1)
    return np.where(places >= starts[:, None], places, -1)


def _others(
    rng: np.random.Generator,
    places: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    num: int,
) -> NDArray[np.int64]:
    """[Q, num] places drawn from start to end but for the own one, each once, ascending; -1 where a draw repeated."""
    lengths = (ends - starts - 1)[:, None]
    drawn = starts[:, None] + (rng.random((len(places), num)) * lengths).astype(np.int64)
    drawn = np.sort(drawn + (drawn >= places[:, None]), axis=1)
    drawn[:, 1:][drawn[:, 1:] == drawn[:, :-1]] = -1
    drawn[lengths[:, 0] == 0] = -1
    found: NDArray[np.int64] = np.take_along_axis(drawn, np.argsort(drawn >= 0, axis=1, kind="stable"), axis=1)
    return found
