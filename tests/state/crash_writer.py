# A process that folds and learns a made-up log in small commits, and may be killed anywhere.
from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np

from models.tables import CellTable
from state.catalogue import Catalogue, CatalogueItem
from state.deltas import Delta, DeltaLog, decode, encode
from state.dictionary import Dictionary
from state.entry import ENTRY, Entry, pack
from state.meta import get_version, put_version
from state.offsets import add_totals, get_offsets, put_offsets
from state.record import Outcome, RecordLimits
from state.records import Records
from state.signals import SignalTable
from state.store import Store
from state.tables import load_model, save_model
from tests.state.doubles import TableModel

NUM_EVENTS = 6000
LIMITS = RecordLimits(sequence=20, seen=40, dislikes=5)
SIGNALS = SignalTable()


class Fold:
    """A small fold stage."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path / "fold", "fold", writer=True)
        self.dictionary = Dictionary(self.store)
        self.records = Records(self.store, LIMITS, cache_users=10)
        self.catalogue = Catalogue(self.store, self.dictionary)
        with self.store.read() as txn:
            self.offset = get_offsets(txn, self.store).get("log", 0)
            self.version = get_version(txn, self.store, "fold")

    def step(self, num_events: int) -> None:
        """Fold the next events and commit."""
        self.version += 1
        delta, totals = Delta("fold", self.version), dict[tuple[str, str], int]()
        rows = []
        for offset in range(self.offset, min(self.offset + num_events, NUM_EVENTS)):
            rng = random.Random(offset)  # an event is a function of its offset
            user, name = b"u%d" % rng.randrange(30), f"i{rng.randrange(1 + offset // 10)}"
            signal = rng.choice([1, 2, 3, 4, 10])
            row = pack(
                Entry(offset - rng.randrange(100) + 1000, rng.randrange(9), self.dictionary.number(name), signal)
            )
            outcome = self.records.get(user).fold(row, SIGNALS)
            totals["event", outcome.value] = totals.get(("event", outcome.value), 0) + 1
            if outcome is Outcome.NEW:
                delta.users.append(user)
                rows.append(row)
            if offset % 50 == 0:
                self.catalogue.upsert(CatalogueItem(name, offset, title=f"at {offset}"))
            if offset % 997 == 0:
                self.records.forget(user, offset)
        delta.entries = np.frombuffer(b"".join(rows), ENTRY)
        self.catalogue.saw(delta.entries["item"], delta.entries["timestamp"])
        self.offset = min(self.offset + num_events, NUM_EVENTS)
        with self.store.write() as txn:
            self.records.flush(txn)
            self.catalogue.flush(txn)
            self.dictionary.flush(txn)
            add_totals(txn, self.store, totals)
            put_offsets(txn, self.store, {"log": self.offset})
            put_version(txn, self.store, "fold", self.version)
            DeltaLog(self.store).append(txn, self.version, encode(delta, self.dictionary.name), 0)


class Learn:
    """A small learn stage of counters, whose results hang on the order of entries alone."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path / "learn", "learn", writer=True)
        self.dictionary = Dictionary(self.store)
        self.model = TableModel()
        self.model.cells = CellTable(8)
        self.model.tables = {"counters": self.model.counters, "cells": self.model.cells}
        with self.store.read() as txn:
            self.learned = self.store.get_meta(txn, "learned", int) or 0
            load_model(txn, self.store, "m", self.model, training=True)

    def step(self, fold: Fold) -> None:
        """Learn up to 3 fold deltas and commit."""
        with fold.store.read() as txn:
            deltas = list(DeltaLog(fold.store).read(txn, self.learned, limit=3))
        for version, data in deltas:
            self._learn(decode(data, self.dictionary.number))
            self.learned = version
        with self.store.write() as txn:
            save_model(txn, self.store, "m", self.model)
            self.dictionary.flush(txn)
            self.store.put_meta(txn, "learned", self.learned)

    def _learn(self, delta: Delta) -> None:
        counters = self.model.counters
        counters.grow(len(self.dictionary))
        for item in delta.entries["item"].tolist():
            counters.values[item] = counters.values[item] * 0.999 + 0.1
            counters.touch(np.array([item]))
            self.model.cells.add(item % 7, item, 0.1)


def main(path: Path, seed: int) -> None:
    """Run from wherever the stores stand to the end of the log."""
    rng = random.Random(seed)
    fold, learn = Fold(path), Learn(path)
    print("ready", flush=True)
    while fold.offset < NUM_EVENTS or learn.learned < fold.version:
        if fold.offset < NUM_EVENTS:
            fold.step(rng.randrange(1, 40))
        learn.step(fold)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
