# Another number of folds: their stores are divided anew by the partitions that each reads, while nothing runs.
from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from kafka.partitioner.default import murmur2

from state import generation
from state.dictionary import Dictionary
from state.from_snapshots import copy_catalogues, copy_records, numbers_in
from state.meta import get_event_time, get_version, put_event_time, put_version
from state.offsets import add_totals, get_offsets, get_totals, own_totals, put_offsets
from state.store import Store, StoreError, Txn
from state.store_errors import naming
from stream.amend import go_on_behind
from stream.dead_letters import DeadLetterConfig, DeadLetters, read_dead_letters
from stream.losses import copy_identity
from stream.shipped import fold_key, fold_name

Wanted = Callable[[bytes], bool]


class Reshard:
    """The stores of all folds, and of their learner, all open to write: no stage runs meanwhile."""

    def __init__(self, folds: Sequence[Store], learn: Store, items_topic: str) -> None:
        """Raises StoreError where they do not belong together, or the learner has not learned all that was folded."""
        self._folds, self._learn, self._items_topic = folds, learn, items_topic
        self._offsets = [self._offsets_of(store) for store in folds]
        partitions = {name for offsets in self._offsets for name in offsets if not self._is_of_items(name)}
        self._num_partitions = len(partitions)
        versions = {}
        for number, store in enumerate(folds):
            with store.read() as txn:
                share, versions[fold_name(number)] = store.get_meta(txn, "share", str), get_version(txn, store, "fold")
            if share != (wanted := fold_key(number, len(folds))):
                raise StoreError(f"store {store.path} has folded as {share}, and {wanted} is needed: name all")
        with learn.read() as txn:
            learned = learn.get_meta(txn, "fold_versions", dict[str, int]) or {}
        self.version = max(versions.values())
        self._is_learned = all(learned.get(name, 0) == version for name, version in versions.items())
        self._learned = learned

    def divide(self, targets: Sequence[Path], now_ms: int) -> int:
        """Make the stores at `targets`, one for each fold there will be, and have the learner go on with them; the
        version at which all of them begin. Killed in its midst it may be run again.

        Users go where the partition of their key is read, which Kafka's own clients choose by murmur2. Raises
        StoreError for a user that is not where it should be by that, and for a target that is there.
        """
        wanted = {fold_name(number): self.version for number in range(len(targets))}
        drafts = [target.with_name(f"{target.name}.part") for target in targets]
        left = [pair for pair in zip(drafts, targets, strict=True) if not self._is_there(pair[1], targets)]
        if self._learned != wanted or not all(draft.is_dir() for draft, _ in left):  # or: killed before the renaming
            if not self._is_learned:
                raise StoreError(f"store {self._learn.path} has not learned all that was folded: run it until it has")
            for number, draft in enumerate(drafts):
                shutil.rmtree(draft, ignore_errors=True)
                self._make(draft, number, len(targets))
            go_on_behind(self._learn, wanted, now_ms)
        for draft, target in left:
            with naming(target):
                shutil.rmtree(target, ignore_errors=True)
                draft.rename(target)
                generation.sync(target.parent)
        return self.version

    def _is_there(self, target: Path, targets: Sequence[Path]) -> bool:
        """Whether a killed run has made this one of the targets. Raises StoreError where something else is there."""
        if not target.is_dir() or not any(target.iterdir()):
            return False
        if any(store.path == target for store in self._folds):
            raise StoreError(f"{target} is there already: give homes without stores")
        with Store(target) as store, store.read() as txn:
            share, version = store.get_meta(txn, "share", str), get_version(txn, store, "fold")
        if (share, version) != (fold_key(list(targets).index(target), len(targets)), self.version):
            raise StoreError(f"{target} is there already: give homes without stores")
        return True

    def _make(self, path: Path, number: int, num_folds: int) -> None:
        with Store(path, "fold", writer=True) as store:
            dictionary = Dictionary(store)
            numbers = [numbers_in(fold, dictionary) for fold in self._folds]
            letters = DeadLetters(store, DeadLetterConfig())
            with store.write() as txn:
                for place, fold in enumerate(self._folds):
                    with fold.read() as reading:
                        copy_records(txn, store, reading, fold, numbers[place], self._of(place, number, num_folds))
                        self._add_times(txn, store, reading, fold)
                        if number == place % num_folds:
                            add_totals(txn, store, own_totals(get_totals(reading, fold), place == 0))
                            letters.append(txn, list(read_dead_letters(reading, fold))[::-1])
                copy_catalogues(txn, store, list(zip(self._folds, numbers, strict=True)))
                dictionary.flush(txn)
                put_offsets(txn, store, self._positions(number, num_folds))
                put_version(txn, store, "fold", self.version)
                store.put_meta(txn, "share", fold_key(number, num_folds))

    def _add_times(self, txn: Txn, store: Store, reading: Txn, fold: Store) -> None:
        event_time = max(get_event_time(txn, store, "fold"), get_event_time(reading, fold, "fold"))
        put_event_time(txn, store, "fold", event_time)
        copy_identity(txn, store, reading, fold)
        codes = fold.get_meta(reading, "signals", dict[str, int]) or {}  # every fold has been given the same
        store.put_meta(txn, "signals", codes | (store.get_meta(txn, "signals", dict[str, int]) or {}))

    def _of(self, place: int, number: int, num_folds: int) -> Wanted:
        """Which users of the fold at `place` are fold `number`'s of so many."""

        @lru_cache(1)  # rows of a user follow each other
        def wanted(user: bytes) -> bool:
            partition = (murmur2(user) & 0x7FFFFFFF) % self._num_partitions
            if partition % len(self._folds) != place:
                raise StoreError(
                    f"store {self._folds[place].path}: user {user!r} is of partition {partition} by Kafka's default "
                    "partitioner, which this fold does not read: events have another key than user_id"
                )
            return bool(partition % num_folds == number)

        return wanted

    def _positions(self, number: int, num_folds: int) -> dict[str, int]:
        """Its own partitions' positions; of items, which all read, that of the fold that is the least far."""
        found: dict[str, int] = {}
        for offsets in self._offsets:
            for name, offset in offsets.items():
                if self._is_of_items(name):
                    found[name] = min(found.get(name, offset), offset)
                elif int(name.rpartition("-")[2]) % num_folds == number:
                    found[name] = offset
        return found

    def _is_of_items(self, partition: str) -> bool:
        return partition.rpartition("-")[0] == self._items_topic

    def _offsets_of(self, store: Store) -> dict[str, int]:
        with store.read() as txn:
            return get_offsets(txn, store)
