# Which items the learner keeps: admitted after some sightings, expired when many newer ones need their place.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh64_intdigest

from state.dictionary import Dictionary
from state.store import Store, Txn

NOT_ADMITTED = -1
_EXPIRED = -1  # in place of an era
_NUM_SIGHTINGS = 1 << 20  # counters of one byte, which ids share by their hash
_PAGE = 4096
_USED, _SIGHTINGS = "items_used", "items_sighted"


@dataclass(frozen=True)
class AdmissionConfig:
    """What bounds the tables of all models: the items that have rows."""

    max_items: int = 1_000_000
    admit_after: int = 1  # sightings of a new item until it is learned
    admit_after_full: int = 3  # the same once only a sixteenth is free; what expires, at `max_items`, is a sixteenth

    def __post_init__(self) -> None:
        for key in ("max_items", "admit_after", "admit_after_full"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} = {getattr(self, key)}: must be at least 1")


class Admitted(NamedTuple):
    """What became of the entries of a delta."""

    numbers: NDArray[np.int64]  # [N] item number of each entry, NOT_ADMITTED where it is not to be learned
    expired: list[tuple[int, NDArray[np.int64]]]  # (n, items): before the n-th entry these items went


class Admission:
    """Admits and expires items in the order of their entries, whatever commits they came with.

    A number is given at admission and never to another item; one that comes back has its old one. Time is the number
    of entries seen, in eras of max_items / 256, so that what is written follows the items that come and not each entry.
    Sightings of items that are not admitted are counted by hash in a fixed 1 MiB and halved every million (TinyLFU,
    Einziger et al. 2017): an id may be admitted too early, never later than it should within a million sightings.
    """

    def __init__(self, store: Store, dictionary: Dictionary, config: AdmissionConfig | None = None) -> None:
        self._store, self._dictionary, self._config = store, dictionary, config or AdmissionConfig()
        self._era_entries = max(1, self._config.max_items // 256)
        # What an expiry frees is for ids that were seen often enough: else a flood would take it at first sight.
        self._room = max(1, self._config.max_items // 16)
        if store.is_writer:
            with store.write() as txn:
                self._databases = {name: store.db(name, txn=txn) for name in (_USED, _SIGHTINGS)}
        with store.read() as txn:
            self._load(txn)

    def _load(self, txn: Txn) -> None:
        self._num_seen = self._store.get_meta(txn, "entries_seen", int) or 0
        self._num_sighted = self._store.get_meta(txn, "sightings", int) or 0
        num_items = len(self._dictionary)
        self._used: NDArray[np.int64] = np.zeros(num_items, np.int64)  # by item: era of its last entry, or _EXPIRED
        pairs = list(txn.cursor(self._databases[_USED]))
        numbers = np.frombuffer(b"".join(key for key, _ in pairs), ">u4").astype(np.int64)
        self._used[numbers] = np.frombuffer(b"".join(era for _, era in pairs), "<i8")
        self._num_kept = int(np.count_nonzero(self._used >= 0))
        self._changed: NDArray[np.bool_] = np.zeros(num_items, np.bool_)
        self._sightings: NDArray[np.uint8] = np.zeros(_NUM_SIGHTINGS, np.uint8)
        self._changed_pages: set[int] = set()
        for key, page in txn.cursor(self._databases[_SIGHTINGS]):
            start = int.from_bytes(key, "big") * _PAGE
            self._sightings[start : start + _PAGE] = np.frombuffer(page, np.uint8)

    def expired(self) -> set[int]:
        """The items that had rows once and have none now."""
        return set(np.flatnonzero(self._used == _EXPIRED).tolist())

    def admit(self, places: NDArray[np.int64], names: Sequence[str]) -> Admitted:
        """Take in the entries of a delta, which are of the items `names[places]`."""
        found, first, inverse = np.unique(places, return_index=True, return_inverse=True)
        numbers = np.array([self._dictionary.find(names[place]) for place in found.tolist()], np.int64)
        kept = np.zeros(len(numbers), np.bool_)
        kept[numbers >= 0] = self._used[numbers[numbers >= 0]] >= 0
        num_new = int(np.count_nonzero(~kept))
        is_crowded = self._num_kept + num_new > self._config.max_items - self._room
        if num_new and (is_crowded or self._config.admit_after > 1):
            return self._one_by_one(places, names)
        for index in np.argsort(first).tolist():
            if not kept[index]:
                numbers[index] = self._keep(names[int(found[index])])
        eras = (self._num_seen + np.arange(len(places))) // self._era_entries
        self._use(numbers[inverse], eras)
        self._num_seen += len(places)
        return Admitted(numbers[inverse], [])

    def flush(self, txn: Txn) -> None:
        """Write what changed."""
        changed = np.flatnonzero(self._changed)
        keys, eras = changed.astype(">u4").tobytes(), self._used[changed].astype("<i8").tobytes()
        rows = [(keys[4 * n : 4 * n + 4], eras[8 * n : 8 * n + 8]) for n in range(len(changed))]
        txn.cursor(self._databases[_USED]).putmulti(rows)
        for page in sorted(self._changed_pages):
            data = self._sightings[page * _PAGE : (page + 1) * _PAGE].tobytes()
            txn.put(page.to_bytes(4, "big"), data, db=self._databases[_SIGHTINGS])
        self._store.put_meta(txn, "entries_seen", self._num_seen)
        self._store.put_meta(txn, "sightings", self._num_sighted)
        self._changed[changed] = False
        self._changed_pages.clear()

    def _one_by_one(self, places: NDArray[np.int64], names: Sequence[str]) -> Admitted:
        numbers, expired = np.full(len(places), NOT_ADMITTED, np.int64), []
        for n, place in enumerate(places.tolist()):
            number = self._dictionary.find(names[place])
            if number < 0 or self._used[number] < 0:
                if not self._is_due(names[place]):
                    self._num_seen += 1
                    continue
                if self._num_kept >= self._config.max_items:
                    expired.append((n, self._expire()))
                number = self._keep(names[place])
            numbers[n] = number
            self._use(numbers[n : n + 1], np.array([self._num_seen // self._era_entries]))
            self._num_seen += 1
        return Admitted(numbers, expired)

    def _is_due(self, name: str) -> bool:
        """Count a sighting of an item that is not kept; whether it is to be."""
        config = self._config
        has_room = self._num_kept < config.max_items - self._room
        needed = config.admit_after if has_room else config.admit_after_full
        if needed <= 1:
            return True
        slot = xxh64_intdigest(name.encode()) % _NUM_SIGHTINGS
        self._sightings[slot] = count = min(int(self._sightings[slot]) + 1, 255)
        self._changed_pages.add(slot // _PAGE)
        self._num_sighted += 1
        if self._num_sighted >= _NUM_SIGHTINGS:
            self._num_sighted = 0
            self._sightings >>= 1
            self._changed_pages.update(range(_NUM_SIGHTINGS // _PAGE))
        return count >= min(needed, 255)

    def _keep(self, name: str) -> int:
        number = self._dictionary.number(name)
        if number >= len(self._used):
            size = max(number + 1, 2 * len(self._used), 1024)
            self._used = np.pad(self._used, (0, size - len(self._used)))
            self._changed = np.pad(self._changed, (0, size - len(self._changed)))
        self._used[number] = 0
        self._changed[number] = True
        self._num_kept += 1
        return number

    def _use(self, numbers: NDArray[np.int64], eras: NDArray[np.int64]) -> None:
        self._changed[numbers] |= self._used[numbers] != eras
        self._used[numbers] = eras  # of several entries of an item the last stands

    def _expire(self) -> NDArray[np.int64]:
        """Make room: forget the items longest unused."""
        used = self._used[: len(self._dictionary)]
        kept = np.flatnonzero(used >= 0)
        longest = kept[np.lexsort((kept, used[kept]))][: self._room]
        self._used[longest] = _EXPIRED
        self._changed[longest] = True
        self._num_kept -= len(longest)
        return np.sort(longest)
