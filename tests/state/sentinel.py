# A model that says its version everywhere, and a process that commits its versions as fast as it can.
from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.tables import CellTable, RowTable
from state.catalogue import Catalogue
from state.compaction import compact
from state.deltas import Delta, DeltaLog, encode
from state.dictionary import Dictionary
from state.meta import put_version
from state.store import Store
from state.tables import save_model
from tests.state.doubles import UserTable

NUM_ITEMS = 300
USERS = (b"u0", b"u1", b"u2")
MODULUS = 2000  # fp16 holds integers up to 2048


class Sentinel:
    """Every item row, cell, row by user and dense weight is the version modulo MODULUS, plus one."""

    def __init__(self) -> None:
        self.rows, self.cells, self.users = RowTable(4), CellTable(), UserTable(4)
        self.tables: Mapping[str, RowTable | CellTable] = {"rows": self.rows, "cells": self.cells}
        self.user_tables = {"users": self.users}
        self.weights = np.zeros(64, np.float32)

    def become(self, version: int) -> None:
        """Be this version."""
        number = self.number(version)
        self.rows.grow(NUM_ITEMS)
        self.rows.values[:NUM_ITEMS] = number
        self.rows.touch(np.arange(NUM_ITEMS))
        self.cells.add(0, 1, number - self.cells.rows.get(0, {}).get(1, 0.0))
        for user in USERS:
            self.users.set(user, np.full(4, number, np.float32))
        self.weights = np.full(64, number, np.float32)

    @staticmethod
    def number(version: int) -> int:
        """What a version looks like."""
        return version % MODULUS + 1

    def dense(self) -> dict[str, NDArray[np.float32]]:
        return {"weights": self.weights}

    def load_dense(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self.weights = weights["weights"]

    def training_state(self) -> dict[str, NDArray[np.generic]]:
        return {}

    def load_training_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        pass


def write_fold(path: Path) -> None:
    """A fold store that has seen the items, in other numbers than the learn store's."""
    with Store(path, "fold", writer=True) as store, store.write() as txn:
        dictionary = Dictionary(store)
        for number in reversed(range(NUM_ITEMS)):
            dictionary.number(f"i{number}")
        catalogue = Catalogue(store, dictionary)
        catalogue.saw(np.arange(NUM_ITEMS), np.full(NUM_ITEMS, 1_763_649_000_000))
        catalogue.flush(txn)
        dictionary.flush(txn)
        put_version(txn, store, "fold", 1)


def write_versions(path: Path, keep_versions: int, seconds_a_version: float, compact_every: int = 0) -> None:
    """Commit versions, at most one in so many seconds, until the process is ended; 0: never compact the stores."""
    store = Store(path, "learn", writer=True)
    dictionary, model = Dictionary(store), Sentinel()
    for number in range(NUM_ITEMS):
        dictionary.number(f"i{number}")
    version, began = 0, time.monotonic()
    while True:
        time.sleep(max(0.0, began + version * seconds_a_version - time.monotonic()))
        version += 1
        model.become(version)
        with store.write() as txn:
            dictionary.flush(txn)
            delta = Delta("learn", version, models={"sentinel": save_model(txn, store, "sentinel", model)})
            put_version(txn, store, "learn", version)
            log = DeltaLog(store)
            log.append(txn, version, encode(delta, dictionary.name), appended_at=version)
            log.trim(txn, keep_after_ms=version - keep_versions, keep_after_version=version)
        if compact_every and version % compact_every == 0:
            store.close()
            compact(path, "learn")
            compact(path.parent / "fold", "fold")
            store = Store(path, "learn", writer=True)
            dictionary = Dictionary(store)


@contextmanager
def writing(path: Path, keep_versions: int, seconds_a_version: float = 0.0, compact_every: int = 0) -> Iterator[None]:
    """Another process that commits versions meanwhile."""
    options = [str(keep_versions), str(seconds_a_version), str(compact_every)]
    command = [sys.executable, "-m", "tests.state.sentinel", str(path), *options]
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    write_versions(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
