# Folded entries into the learner's own records: each new one becomes an example, its history cut just before it.
from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from state.deltas import Delta, decode
from state.dictionary import Dictionary
from state.entry import ENTRY_BYTES, ITEM_OFFSET, KEY_BYTES, SIGNAL_OFFSET
from state.follower import DeltaSource
from state.record import Outcome, RecordLimits
from state.records import Records
from state.signals import SignalTable
from state.slate import row_items
from state.store import Store, Txn
from stream.admission import NOT_ADMITTED, Admission, AdmissionConfig
from stream.examples import Example, ExampleConfig
from stream.replay import Replay
from stream.shown import Shown

_ITEM = slice(ITEM_OFFSET, ITEM_OFFSET + 4)


class FoldDelta(NamedTuple):
    """A delta of the fold store named `fold`. Its item numbers are places in `names`, not yet those of a store."""

    fold: str
    delta: Delta
    names: list[str]


def read_deltas(folds: Mapping[str, DeltaSource], versions: Mapping[str, int], max_entries: int) -> list[FoldDelta]:
    """The deltas after these versions, of each fold up to the one with which its share of `max_entries` is reached."""
    read: list[FoldDelta] = []
    share = max_entries / max(1, len(folds))
    for fold, source in sorted(folds.items()):
        version, num_entries = versions.get(fold, 0), 0
        while num_entries < share and (found := source.read(version, limit=16)):
            for found_version, data in found:
                names: list[str] = []
                read.append(FoldDelta(fold, decode(data, _place_in(names)), names))
                version, num_entries = found_version, num_entries + len(read[-1].delta.entries)
                if num_entries >= share:
                    break
    return read


def _place_in(names: list[str]) -> Callable[[str], int]:
    def place(name: str) -> int:
        names.append(name)
        return len(names) - 1

    return place


class Segment(NamedTuple):
    """A run of examples, and the items whose rows go before it is learned."""

    expired: NDArray[np.int64]
    examples: list[Example]


class EntryFold:
    """The records (the sequence alone) and the dictionary of a learn store, and the users that replay draws from.

    An entry of an item that is not admitted is as if it had never come; one of an item that has expired is left out
    of histories.
    """

    def __init__(
        self,
        store: Store,
        signals: SignalTable,
        limits: RecordLimits,
        examples: ExampleConfig,
        cache_users: int,
        admission: AdmissionConfig | None = None,
    ) -> None:
        self._records = Records(store, limits, cache_users)
        self.dictionary = Dictionary(store)
        self._admission = Admission(store, self.dictionary, admission)
        self._replay = Replay(store, signals, examples.max_entries)
        self._max_entries = examples.max_entries
        self._learned = {code for code, signal in signals.by_code.items() if signal.weight > 0}
        self._wanted = {code for code in self._learned if signals.labels[code] > 0}
        self._shown = Shown(cache_users)
        self._gone = self._admission.expired()  # as of the entry that is being folded

    def fold(self, read: Sequence[FoldDelta]) -> list[Segment]:
        """Fold deltas, in memory; their examples, in the order of their entries: one segment unless items expire."""
        segments = [Segment(np.zeros(0, np.int64), [])]
        for folded in read:
            for found in self._fold(folded):
                if isinstance(found, Example):
                    segments[-1].examples.append(found)
                else:
                    segments.append(Segment(found, []))
        return segments

    def draw(self, txn: Txn, rng: np.random.Generator, num_examples: int) -> list[Example]:
        """Up to `num_examples` examples of stored records."""
        return self._of_kept_items(self._replay.draw(txn, rng, num_examples))

    def walk(self, txn: Txn, after: bytes, num_examples: int) -> tuple[list[Example], bytes | None]:
        """Examples of stored records in order, as `Replay.walk` gives them."""
        examples, place = self._replay.walk(txn, after, num_examples)
        return self._of_kept_items(examples), place

    def flush(self, txn: Txn) -> None:
        """Write all that changed."""
        self._replay.flush(txn)
        self.dictionary.flush(txn)
        self._admission.flush(txn)
        self._records.flush(txn)

    def _fold(self, read: FoldDelta) -> Iterator[Example | NDArray[np.int64]]:
        """The delta's examples as they are met, and the items that expire before the next one."""
        delta = read.delta
        for user, received_at in delta.deleted_users:
            self._records.forget(user, received_at)
            self._replay.forget(user)
            self._shown.forget(user)
        admitted = self._admission.admit(delta.entries["item"].astype(np.int64), read.names)
        for user, row in delta.slates:
            self._shown.add(user, row, self._numbers(row, read.names))
        for user, row in delta.impressions:
            self._shown.add_impression(user, row, self._numbers(row, read.names))
        expired = dict(admitted.expired)
        numbers = admitted.numbers.tolist()
        delta.entries["item"] = np.maximum(admitted.numbers, 0)
        data = delta.entries.tobytes()
        for place, user in enumerate(delta.users):
            if place in expired:
                self._gone.update(expired[place].tolist())
                yield expired[place]
            if numbers[place] == NOT_ADMITTED:
                continue
            self._gone.discard(numbers[place])
            entry = data[place * ENTRY_BYTES : (place + 1) * ENTRY_BYTES]
            sequence = self._records.get(user).sequence
            rows = sequence.rows
            end = len(rows)
            if end == 0:
                self._replay.add(user)
            elif entry <= rows[-1]:
                end = bisect_left(rows, entry[:KEY_BYTES])
            history = rows[max(0, end - self._max_entries) : end]
            if sequence.add(entry) is Outcome.NEW and entry[SIGNAL_OFFSET] in self._learned:
                shown = self._shown.beside(user, entry) if entry[SIGNAL_OFFSET] in self._wanted else ()
                yield Example(entry, self._without_gone(history), user, shown)

    def _numbers(self, row: bytes, names: Sequence[str]) -> NDArray[np.int64]:
        """Our numbers of the items of a slate or an impression, PAD for those that we do not know."""
        places = row_items(row).tolist()
        return np.fromiter((self.dictionary.find(names[place]) for place in places), np.int64, len(places))

    def _of_kept_items(self, examples: list[Example]) -> list[Example]:
        if not self._gone:
            return examples
        kept = [example for example in examples if int.from_bytes(example.target[_ITEM], "big") not in self._gone]
        return [example._replace(history=self._without_gone(example.history)) for example in kept]

    def _without_gone(self, history: list[bytes]) -> list[bytes]:
        if not self._gone:
            return history
        return [row for row in history if int.from_bytes(row[_ITEM], "big") not in self._gone]
