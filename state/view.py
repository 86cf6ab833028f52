# The server's fold of the deltas: two homes, of which one is read while the other comes to the next version.
from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Generic

from state.deltas import Delta, decode
from state.dictionary import Dictionary
from state.home import Configs, Home, ModelT
from state.meta import get_version
from state.store import Stage, Store, StoreMissing


class View(Generic[ModelT]):
    """Follows a fold and a learn store (or one follower's store for both) in memory, one version at a time.

    Left-right: `refresh` brings the home that nobody reads to the newest version and then swaps one reference, so
    that a reader finds item rows, rows by user and dense weights of one version and never waits. Any number of threads
    read; one refreshes. Stores may be given as paths, opened for reading once they exist (the same path for both is
    opened once), or as open stores, which stay their owner's. `build_models` gives empty models of the
    configurations said, for each home and again where it is loaded whole.
    """

    def __init__(
        self,
        fold: Path | Store,
        learn: Path | Store,
        build_models: Callable[[Configs], Mapping[str, ModelT]],
        drain_seconds: float = 5.0,
    ) -> None:
        self._fold, self._learn, self._drain_seconds = fold, learn, drain_seconds
        self._opened: dict[Path, Store] = {}
        self._outgrown: dict[Store, int] = {}  # compacted since; how many homes have left them
        self._dictionary: Dictionary | None = None
        self._decoded: dict[tuple[Stage, int], Delta] = {}  # by one home, for the other
        self._commits: list[tuple[Store, int]] = []  # of the stores, when there was nothing new
        category_codes: dict[str, int] = {}
        self._front, self._back = Home(build_models, category_codes), Home(build_models, category_codes)
        self._readers_left = threading.Condition()

    @property
    def fold_store(self) -> Store | None:
        """Where user records are read at a request; None until a refresh found it."""
        return self._fold if isinstance(self._fold, Store) else self._opened.get(self._fold)

    @property
    def learn_store(self) -> Store | None:
        """Where models are read; None until a refresh found it."""
        return self._learn if isinstance(self._learn, Store) else self._opened.get(self._learn)

    @contextmanager
    def read(self) -> Iterator[Home[ModelT]]:
        """The home of the newest version taken in, which stays as it is meanwhile. Keep it short: a request."""
        with self._readers_left:
            home = self._front
            home.num_readers += 1
        try:
            yield home
        finally:
            with self._readers_left:
                home.num_readers -= 1
                self._readers_left.notify_all()

    def refresh(self) -> bool:
        """Take in what is new; whether there was anything. False too while a reader keeps the older home busy."""
        fold, learn = self._open(self._fold), self._open(self._learn)
        if fold is None:
            return False
        if not self._outgrown and (self._is_as_it_was(fold, learn) or not self._is_behind(fold, learn)):
            return False
        back = self._free_home()
        if back is None:
            return False
        reading_learn = None if learn is None else (learn, learn.begin_read_whole())
        if fold.is_outdated:  # compacted while this waited: it ends before what was learned
            if reading_learn is not None:
                reading_learn[0].end_read(reading_learn[1])
            return False
        with fold.read() as txn:  # after learn's: what was learned was folded before, so all its items are known
            if self._dictionary is None:
                self._dictionary = Dictionary(fold)
            self._dictionary.refresh(txn)
            back.catch_up(self._dictionary, (fold, txn), reading_learn, self._decode)
        with self._readers_left:
            self._front, self._back = back, self._front
        self._leave_outgrown()
        done = {"fold": self._back.fold_version, "learn": self._back.version}
        self._decoded = {key: delta for key, delta in self._decoded.items() if key[1] > done[key[0]]}
        return True

    def close(self) -> None:
        """Let go of versions and of the stores opened here; nobody may read any more."""
        self._front.release()
        self._back.release()
        for store in [*self._opened.values(), *self._outgrown]:
            store.close()

    def _leave_outgrown(self) -> None:
        """Close the stores that neither home reads any more, now that one was brought to other files."""
        self._outgrown = {store: num_homes + 1 for store, num_homes in self._outgrown.items()}
        for store in [store for store, num_homes in self._outgrown.items() if num_homes == 2]:
            del self._outgrown[store]
            store.close()

    def _free_home(self) -> Home[ModelT] | None:
        """The home to write: the older one, when its last reader has left; None if one stays."""
        with self._readers_left:
            is_free = self._readers_left.wait_for(lambda: self._back.num_readers == 0, self._drain_seconds)
        return self._back if is_free else None

    def _is_as_it_was(self, *stores: Store | None) -> bool:
        """Whether nothing was committed since there was nothing new: cheap, for it is asked all the time."""
        return self._commits == [(store, store.last_commit) for store in stores if store is not None]

    def _is_behind(self, fold: Store, learn: Store | None) -> bool:
        with fold.read() as txn:  # may not see the newest commit yet: its own number is what counts
            fold_version, commits = get_version(txn, fold, "fold"), [(fold, txn.id())]
        version = 0
        if learn is not None:
            with learn.read() as txn:
                version = get_version(txn, learn, "learn")
                commits.append((learn, txn.id()))
        is_behind = (fold_version, version) != (self._front.fold_version, self._front.version)
        if not is_behind:
            self._commits = commits
        return is_behind

    def _open(self, where: Path | Store) -> Store | None:
        if isinstance(where, Store):
            return where
        before = self._opened.get(where)
        if before is None or before.is_outdated:
            try:
                self._opened[where] = Store(where)
            except StoreMissing:
                return before
            if before is not None:
                self._outgrown[before] = 0
                self._dictionary = None  # it reads its store
                self._decoded.clear()
        return self._opened[where]

    def _decode(self, stage: Stage, version: int, data: bytes) -> Delta:
        """A delta with the fold store's item numbers; the second home to ask is given what the first was."""
        assert self._dictionary is not None
        key = (stage, version)
        if key not in self._decoded:
            self._decoded[key] = decode(data, self._dictionary.find)
        return self._decoded[key]
