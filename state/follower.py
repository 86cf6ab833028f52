# Folds the deltas of both stages into a store of its own, from which servers read as from the stages' stores.
from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Protocol

from state.catalogue import Catalogue
from state.delta_tables import write_delta
from state.deltas import Delta, DeltaLog, decode
from state.dictionary import Dictionary
from state.meta import get_event_time, get_version, put_event_time, put_held, put_version
from state.offsets import add_totals, own_totals, put_further, put_offsets
from state.record import RecordLimits
from state.records import Records
from state.signals import SignalTable
from state.store import Stage, Store, Txn
from state.tables import forget_user_rows

LEARN = "learn"  # the name of the learn stage among stages that are followed


class DeltaSource(Protocol):
    """Where deltas come from: a stage's store read directly, or a topic."""

    def read(self, after_version: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` (version, bytes) after a version, in order; DeltaGap where they are gone."""
        ...

    def stamps(self, after_version: int, limit: int) -> list[int]:
        """When up to `limit` versions after a version were appended to the stage's own log, milliseconds."""
        ...

    def last(self) -> int:
        """The newest version there is, 0 before the first."""
        ...


class StoreSource:
    """The deltas log of a stage's store on this machine."""

    def __init__(self, store: Store) -> None:
        self._store, self._log = store, DeltaLog(store)

    def read(self, after_version: int, limit: int) -> list[tuple[int, bytes]]:
        """As DeltaSource says."""
        with self._store.read() as txn:
            return list(self._log.read(txn, after_version, limit))

    def stamps(self, after_version: int, limit: int) -> list[int]:
        """As DeltaSource says."""
        with self._store.read() as txn:
            return self._log.stamps(txn, after_version, limit)

    def last(self) -> int:
        """As DeltaSource says."""
        with self._store.read() as txn:
            return get_version(txn, self._store, self._store.stage)


class Follower:
    """Keeps a "follow" store at the versions of fold stages and the learn stage. What a step reads is one commit.

    Stages go by their names: LEARN, and a fold's as the learner calls it. A version that is in the store already is
    passed over, so a source may repeat itself; one of the learner waits until the `folds` named are as far as what it
    has learned from. In the store the versions of all folds are one row of numbers, of one fold its own. After an
    exception of `step` drop the object and open the store anew.
    """

    def __init__(
        self, store: Store, signals: SignalTable, limits: RecordLimits | None = None, folds: Sequence[str] = ()
    ) -> None:
        self._store, self._signals, self._folds = store, signals, folds
        self._dictionary = Dictionary(store)
        self._records = Records(store, limits)
        self._catalogue = Catalogue(store, self._dictionary)
        with store.read() as txn:
            self._positions = store.get_meta(txn, "positions", dict[str, int]) or {}
            self._versions: dict[Stage, int] = {stage: get_version(txn, store, stage) for stage in ("fold", "learn")}
        self._logs = {stage: DeltaLog(store, stage) for stage in self._versions}

    def version(self, name: str) -> int:
        """The last version of a stage that the store holds."""
        return self._positions.get(name, 0)

    def step(self, name: str, source: DeltaSource, now_ms: int, limit: int = 100) -> int:
        """Fold up to `limit` deltas of a stage that the store does not hold yet; how many. `now_ms` stamps the log."""
        return self._fold(name, source.read(self.version(name), limit), now_ms)

    def fold(self, name: str, version: int, data: bytes, now_ms: int) -> bool:
        """Fold one delta; False where its version is in the store already, or must wait."""
        return self._fold(name, [(version, data)], now_ms) == 1

    def _fold(self, name: str, found: Sequence[tuple[int, bytes]], now_ms: int) -> int:
        """Fold deltas that are new, in order, as one commit; how many.

        1. records, catalogue, tables; 2. dictionary; 3. offsets, totals, event time, version; 4. the deltas, for the
        servers that read this store; 5. how far the stage is.
        """
        stage: Stage = "learn" if name == LEARN else "fold"
        new = [(version, data) for version, data in found if version > self.version(name)]
        deltas = list(takewhile(self._may_come, (decode(data, self._dictionary.number) for _, data in new)))
        if not deltas:
            return 0
        new = new[: len(deltas)]
        if stage == "fold":
            for delta in deltas:
                self._fold_records(delta)
        with self._store.write() as txn:
            self._records.flush(txn)  # 1
            self._catalogue.flush(txn)
            for delta in deltas:
                self._write_tables(txn, delta)
            self._dictionary.flush(txn)  # 2
            for delta in deltas:
                (put_further if len(self._folds) > 1 else put_offsets)(txn, self._store, delta.offsets, stage)  # 3
                add_totals(txn, self._store, own_totals(delta.totals, name in (LEARN, *self._folds[:1])))
            event_time = max(get_event_time(txn, self._store, stage), deltas[-1].event_time)
            put_event_time(txn, self._store, stage, event_time)
            if stage == "learn":
                put_held(txn, self._store, deltas[-1].held)
            versions = [self._versions[stage] + 1 + k if stage == "fold" else new[k][0] for k in range(len(new))]
            put_version(txn, self._store, stage, versions[-1])
            for version, (_, data) in zip(versions, new, strict=True):
                self._logs[stage].append(txn, version, data, now_ms)  # 4
            positions = self._positions | {name: new[-1][0]}
            self._store.put_meta(txn, "positions", positions)  # 5
        self._versions[stage], self._positions = versions[-1], positions
        return len(new)

    def _may_come(self, delta: Delta) -> bool:
        """Whether all folds are as far as what was learned: of items that nobody has folded here, nothing is known."""
        return all(delta.fold_versions.get(fold, 0) <= self.version(fold) for fold in self._folds)

    def _write_tables(self, txn: Txn, delta: Delta) -> None:
        for user, _ in delta.deleted_users:
            forget_user_rows(txn, self._store, user)
        for name, model in delta.models.items():
            write_delta(txn, self._store, name, model)

    def _fold_records(self, delta: Delta) -> None:
        for user, received_at in delta.deleted_users:
            self._records.forget(user, received_at)
        for user, row in zip(delta.users, delta.entries.view("V44").tolist(), strict=True):
            self._records.get(user).fold(row, self._signals)
        for user, row in delta.slates:
            self._records.get(user).fold_slate(row)
        for user, row in delta.impressions:
            self._records.get(user).fold_impression(row)
        for item in delta.items:
            self._catalogue.upsert(item)
        self._catalogue.saw(delta.entries["item"], delta.entries["timestamp"])
