# Folds the deltas of both stages into a store of its own, from which servers read as from the stages' stores.
from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from state.catalogue import Catalogue
from state.delta_tables import write_delta
from state.deltas import Delta, DeltaLog, decode
from state.dictionary import Dictionary
from state.meta import get_version, put_event_time, put_held, put_version
from state.offsets import put_offsets
from state.record import RecordLimits
from state.records import Records
from state.signals import SignalTable
from state.store import Stage, Store, Txn
from state.tables import forget_user_rows


class DeltaSource(Protocol):
    """Where deltas come from: a stage's store read directly, or a topic."""

    def read(self, after_version: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` (version, bytes) after a version, in order; DeltaGap where they are gone."""
        ...


class StoreSource:
    """The deltas log of a stage's store on this machine."""

    def __init__(self, store: Store) -> None:
        self._store, self._log = store, DeltaLog(store)

    def read(self, after_version: int, limit: int) -> list[tuple[int, bytes]]:
        """As DeltaSource says."""
        with self._store.read() as txn:
            return list(self._log.read(txn, after_version, limit))


class Follower:
    """Keeps a "follow" store at the versions of a fold and a learn stage. What a step reads is one commit.

    A version that is in the store already is passed over, so a source may repeat itself. After an exception of `step`
    drop the object and open the store anew.
    """

    def __init__(self, store: Store, signals: SignalTable, limits: RecordLimits | None = None) -> None:
        self._store, self._signals = store, signals
        self._dictionary = Dictionary(store)
        self._records = Records(store, limits)
        self._catalogue = Catalogue(store, self._dictionary)
        self._versions: dict[Stage, int] = {}
        with store.read() as txn:
            for stage in ("fold", "learn"):
                self._versions[stage] = get_version(txn, store, stage)
        self._logs = {stage: DeltaLog(store, stage) for stage in self._versions}

    def version(self, stage: Stage) -> int:
        """The last version of a stage that the store holds."""
        return self._versions[stage]

    def step(self, stage: Stage, source: DeltaSource, now_ms: int, limit: int = 100) -> int:
        """Fold up to `limit` deltas of a stage that the store does not hold yet; how many. `now_ms` stamps the log."""
        return self._fold(stage, source.read(self._versions[stage], limit), now_ms)

    def fold(self, stage: Stage, version: int, data: bytes, now_ms: int) -> bool:
        """Fold one delta; False where its version is in the store already."""
        return self._fold(stage, [(version, data)], now_ms) == 1

    def _fold(self, stage: Stage, found: Sequence[tuple[int, bytes]], now_ms: int) -> int:
        """Fold deltas that are new, in order, as one commit; how many.

        1. records, catalogue, tables; 2. dictionary; 3. offsets, event time, version; 4. the deltas, for the servers
        that read this store.
        """
        new = [(version, data) for version, data in found if version > self._versions[stage]]
        if not new:
            return 0
        deltas = [decode(data, self._dictionary.number) for _, data in new]
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
                put_offsets(txn, self._store, delta.offsets, stage)  # 3
            put_event_time(txn, self._store, stage, deltas[-1].event_time)
            if stage == "learn":
                put_held(txn, self._store, deltas[-1].held)
            put_version(txn, self._store, stage, new[-1][0])
            for version, data in new:
                self._logs[stage].append(txn, version, data, now_ms)  # 4
        self._versions[stage] = new[-1][0]
        return len(new)

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
