# Rows by user: the few that a process holds, before the many that its store keeps.
from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Row: TypeAlias = NDArray[np.float32]  # [width]
Read: TypeAlias = Callable[[bytes], Row | None]  # a user's stored row, None where there is none


NOBODY: Final = b""  # stands for a user who has no id, and no row


def _nobody(_user: bytes) -> None:
    return None


class UserTable:
    """A row of `width` numbers for each user, 0 until it is put.

    Memory is bounded, not the number of users: held are the rows put since `take_touched`, and of others the
    `capacity` put last. What is not held is read through `bind`'s function, so the owner of the rows must have stored
    what it took as touched before it learns on. Reading changes nothing: servers read all, and hold none.
    """

    def __init__(self, width: int, capacity: int = 20_000) -> None:
        self.width, self.capacity = width, capacity
        self.changes = 0  # grows with every change of rows: what was computed from them before is stale
        self._held: dict[bytes, Row] = {}  # the row put last is last
        self._touched: set[bytes] = set()
        self._read: Read = _nobody

    def held(self) -> list[bytes]:
        """The users whose rows are held, the one put last at the end."""
        return list(self._held)

    def bind(self, read: Read | None) -> None:
        """Where rows that are not held come from; None: from nowhere, they are 0."""
        self._read = read or _nobody

    def rows(self, users: Sequence[bytes]) -> NDArray[np.float32]:
        """[Q, width] the rows of these users, copied; 0 for one without."""
        found = np.zeros((len(users), self.width), np.float32)
        for place, user in enumerate(users):
            row = self.row(user)
            if row is not None:
                found[place] = row
        return found

    def row(self, user: bytes) -> Row | None:
        """A user's row, held or stored; do not write to it."""
        row = self._held.get(user)
        return self._read(user) if row is None and user != NOBODY else row

    def put(self, users: Sequence[bytes], rows: NDArray[np.float32]) -> None:
        """Set the rows [N, width] of these users, each once."""
        for user, row in zip(users, rows, strict=True):
            self._held.pop(user, None)
            self._held[user] = row.copy()
        self._touched.update(users)
        self.changes += 1
        for user in list(islice(self._held, max(len(self._held) - self.capacity, 0))):
            if user not in self._touched:
                del self._held[user]

    def take_touched(self) -> list[bytes]:
        """The users whose rows were put since the last call, in order of their ids; forgets them."""
        touched, self._touched = sorted(self._touched), set()
        return touched

    def forget(self, user: bytes) -> None:
        """Drop a user's row; whoever stores rows deletes the stored one."""
        self._held.pop(user, None)
        self._touched.discard(user)
        self.changes += 1
