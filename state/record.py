# The user record: five bounded sets of byte rows, and how entries fold into them.
from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from msgspec import Struct

from state.entry import ENTRY, ENTRY_BYTES, KEY_BYTES, SIGNAL_OFFSET
from state.signals import SignalTable

_SEEN = np.dtype([("timestamp", ">u8"), ("item", ">u4")])


class Disk(Protocol):
    """Where the rows of users' sets lie."""

    def rows(self, user: bytes, name: str) -> list[bytes]:
        """All rows of a set, least first."""
        ...

    def edges(self, user: bytes, name: str) -> tuple[int, bytes, bytes]:
        """How many rows a set has, the least and the greatest (empty bytes where there are none)."""
        ...


class Outcome(Enum):
    """What a set did with a row."""

    NEW = "new"
    DUPLICATE = "duplicate"  # a row of the same key is there already
    LATE = "late"  # older than all rows of a full set: counted and dropped


@dataclass(frozen=True, slots=True)
class RecordLimits:
    """How many rows each set of a record keeps."""

    sequence: int = 200
    seen: int = 2000
    dislikes: int = 500
    slates: int = 50
    impressions: int = 50


SETS = ("sequence", "seen", "dislikes", "slates", "impressions")
ROW_BYTES = {"sequence": ENTRY_BYTES, "seen": 12, "dislikes": 21}  # of the sets whose rows are of one length


class BoundedSet(Struct, gc=False, eq=False):
    """The `limit` greatest distinct rows by byte order; of rows with an equal first `key_bytes` the least stays
    (None: only equal rows are repeats).

    Neither order nor repetition of additions changes what it holds. What is on `disk` is brought at need: a row that
    goes behind all others, as nearly all do, needs the number of rows and the edges alone. `defer` needs nothing:
    whoever writes `changes` then trims to the limit on disk. Tens of thousands of sets are alive at a time and none is
    part of a cycle: the collector need not look at them.
    """

    limit: int
    key_bytes: int | None = None
    disk: Disk | None = None
    user: bytes = b""
    name: str = ""
    changes: dict[bytes, bool] = {}  # since the last `flushed`: rows added (True) and removed (False)
    _rows: list[bytes] | None = None  # once loaded; until then the next three stand for them
    _num_rows: int = -1  # not asked for yet
    _least: bytes = b""  # empty also where it is not known, for the one that was has left
    _greatest: bytes = b""

    @property
    def is_counted(self) -> bool:
        """Whether the set knows its number of rows: if not, it may hold more than its limit with what was deferred."""
        return self._rows is not None or self._num_rows >= 0

    @property
    def rows(self) -> list[bytes]:
        """All rows, least first. Not to be changed by the caller."""
        if self._rows is None:
            added = [row for row, is_added in self.changes.items() if is_added]
            self.changes.clear()
            self._rows = [] if self.disk is None else self.disk.rows(self.user, self.name)
            for row in added:
                self.add(row)
        return self._rows

    def add(self, row: bytes) -> Outcome:
        """Put a row in its place."""
        return self.place(row)[0]

    def place(self, row: bytes) -> tuple[Outcome, bytes | None]:
        """Put a row in its place. With the outcome, the row that found none or lost it, if one did."""
        key = row[: self.key_bytes]
        if self._rows is None and self._goes_last(key):
            return Outcome.NEW, self._place_last(row)
        rows = self.rows
        if not rows or key > rows[-1]:
            rows.append(row)  # nearly always: events come in order
        else:
            at = bisect_left(rows, key)
            if at < len(rows) and rows[at][: self.key_bytes] == key:
                return Outcome.DUPLICATE, self._repeat(at, row)
            if at == 0 and len(rows) >= self.limit:
                return Outcome.LATE, row
            rows.insert(at, row)
        self.changes[row] = True
        if len(rows) > self.limit:
            return Outcome.NEW, self._drop(rows.pop(0))
        return Outcome.NEW, None

    def defer(self, row: bytes) -> None:
        """Add a row without asking what became of it, and so without reading the disk."""
        if self._rows is None:
            self.changes[row] = True
        else:
            self.add(row)

    def flushed(self) -> None:
        """All changes are on disk."""
        self.changes.clear()

    def _goes_last(self, key: bytes) -> bool:
        """Whether the edges tell that a row of this key goes behind all others, and which one leaves for it."""
        if self._num_rows < 0 or (self._num_rows >= self.limit and not self._least):
            if self.changes:
                return False  # what is on disk is not what the set holds
            self._num_rows = 0
            if self.disk is not None:
                self._num_rows, self._least, self._greatest = self.disk.edges(self.user, self.name)
            if not self._num_rows:
                self._rows = []
        return self._num_rows > 0 and key > self._greatest

    def _place_last(self, row: bytes) -> bytes | None:
        self.changes[row], self._greatest = True, row
        if self._num_rows < self.limit:
            self._num_rows += 1
            return None
        dropped, self._least = self._least, b""  # the next one to leave is not known
        return self._drop(dropped)

    def _repeat(self, at: int, row: bytes) -> bytes | None:
        """Of two rows that claim one key the least stays, whichever came first. The other, if they differ."""
        rows = self.rows
        before = rows[at]
        if row < before:
            rows[at] = row
            self.changes[row] = True
            return self._drop(before)
        return row if row > before else None

    def _drop(self, row: bytes) -> bytes:
        if self.changes.get(row):
            del self.changes[row]
        else:
            self.changes[row] = False
        return row


class UserRecord(Struct, gc=False, eq=False):
    """All that is kept of one user, as sets of rows of which an event changes few.

    `sequence` holds entries; `dislikes` (timestamp u64, hash u64, item u32, disliked u8); `slates` and `impressions`
    what state/slate.py packs; `seen` (timestamp u64, item u32) of entries that are not in the sequence, so that a
    user's first entries are written once. `forgotten_at` is the log's stamp of the last deletion of the user (0 none):
    what was received before then must not be folded again.
    """

    limits: RecordLimits = RecordLimits()
    disk: Disk | None = None
    user: bytes = b""
    forgotten_at: int = 0
    _sequence: BoundedSet | None = None  # this and the next: those that were asked for
    _seen: BoundedSet | None = None
    _dislikes: BoundedSet | None = None
    _slates: BoundedSet | None = None
    _impressions: BoundedSet | None = None

    @property
    def sequence(self) -> BoundedSet:
        """The newest entries."""
        return self._sequence or self._set("sequence")

    @property
    def seen(self) -> BoundedSet:
        """What was seen before the sequence."""
        return self._set("seen")

    @property
    def dislikes(self) -> BoundedSet:
        """What was said about disliking items."""
        return self._set("dislikes")

    @property
    def slates(self) -> BoundedSet:
        """What was shown."""
        return self._set("slates")

    @property
    def impressions(self) -> BoundedSet:
        """What was really seen of it."""
        return self._set("impressions")

    def changed(self) -> list[tuple[str, BoundedSet]]:
        """The sets, by name, that are not on disk as they are."""
        made = zip(SETS, (self._sequence, self._seen, self._dislikes, self._slates, self._impressions), strict=True)
        return [(name, rows) for name, rows in made if rows is not None and rows.changes]

    def _set(self, name: str) -> BoundedSet:
        rows: BoundedSet | None = getattr(self, f"_{name}")
        if rows is None:
            limit: int = getattr(self.limits, name)
            rows = BoundedSet(limit, KEY_BYTES if name == "sequence" else None, self.disk, self.user, name)
            setattr(self, f"_{name}", rows)
        return rows

    def fold(self, entry: bytes, signals: SignalTable) -> Outcome:
        """Take one packed entry into sequence, seen and dislikes; the outcome is the sequence's."""
        outcome, left = self.sequence.place(entry)
        if left is not None:
            self.seen.defer(left[:8] + left[16:20])
        disliked = signals.disliked.get(entry[SIGNAL_OFFSET])
        if disliked is not None:
            self.dislikes.defer(entry[:20] + (b"\1" if disliked else b"\0"))
        return outcome

    def fold_slate(self, row: bytes) -> None:
        """Take one packed slate."""
        self.slates.defer(row)

    def fold_impression(self, row: bytes) -> None:
        """Take one packed impression; it never enters the sequence."""
        self.impressions.defer(row)

    def newest_timestamp(self) -> int:
        """Event time of the newest row of any set, milliseconds; 0 for an empty record."""
        sets = (self._set(name).rows for name in SETS)  # of every set the rows begin with their time
        return max((int.from_bytes(rows[-1][:8], "big") for rows in sets if rows), default=0)

    def entries_before(self, timestamp: int, hash_: int, limit: int) -> list[bytes]:
        """Up to `limit` newest packed entries strictly before (timestamp, hash), oldest first."""
        rows = self.sequence.rows
        end = bisect_left(rows, timestamp.to_bytes(8, "big") + hash_.to_bytes(8, "big"))
        return rows[max(0, end - limit) : end]

    def disliked(self) -> set[int]:
        """Item numbers whose newest word is a dislike."""
        said = {row[16:20]: row[20] for row in self.dislikes.rows}  # rows are oldest first: the newest word stays
        return {int.from_bytes(item, "big") for item, disliked in said.items() if disliked}

    def seen_items(self) -> list[int]:
        """Distinct item numbers by when they were last seen, oldest first."""
        before = np.frombuffer(b"".join(self.seen.rows), _SEEN)
        entries = np.frombuffer(b"".join(self.sequence.rows), ENTRY)
        at = np.concatenate([before["timestamp"], entries["timestamp"]]).astype(np.uint64)  # native: sorts 5x faster
        items = np.concatenate([before["item"], entries["item"]]).astype(np.int64)[np.argsort(at, kind="stable")]
        return list(dict.fromkeys(items[::-1].tolist()))[::-1]

    def encode(self) -> bytes:
        """The canonical bytes: equal records have equal bytes, whatever way they came about."""
        parts: list[bytes] = []
        for rows in (self._set(name).rows for name in SETS):
            parts.append(len(rows).to_bytes(4, "big"))
            parts.extend(len(row).to_bytes(2, "big") + row for row in rows)
        return b"".join(parts)
