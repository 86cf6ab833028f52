# One of a view's two homes: models, catalogue and rows by user of exactly one version.
from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from state.columns import CatalogueColumns
from state.deltas import Delta, DeltaGap, DeltaLog
from state.dictionary import Dictionary
from state.meta import get_configs, get_event_time, get_held, get_version
from state.model_state import ModelState, rounded, user_tables
from state.offsets import get_offsets
from state.store import Stage, Store, StoreConfigurationChanged, Txn
from state.tables import apply_delta, get_user_row, load_model

ModelT = TypeVar("ModelT", bound=ModelState)
Reading: TypeAlias = tuple[Store, Txn]
Configs: TypeAlias = Mapping[str, Mapping[str, object]]  # model → key → value that it was trained with
Decoded: TypeAlias = Callable[[Stage, int, bytes], Delta]  # the delta of (stage, version, bytes)


class Home(Generic[ModelT]):
    """What a server scores with. While anyone reads it, nobody writes it.

    Item numbers are the fold store's everywhere. `version` is the model version, 0 before the first; `fold_version`
    says how far `catalogue` and `num_items` are. `dictionary` may be ahead: what it numbers from `num_items` on came
    later.
    """

    def __init__(self, build_models: Callable[[Configs], Mapping[str, ModelT]], category_codes: dict[str, int]) -> None:
        self._build_models = build_models
        self._learn: Reading | None = None  # pins this version's rows by user
        self._mutex = threading.Lock()
        self._category_codes = category_codes
        self.models: Mapping[str, ModelT] = self._bound(build_models({}))
        self.dictionary: Dictionary | None = None
        self.catalogue = CatalogueColumns(category_codes)
        self.num_items = 0
        self.version = self.fold_version = 0
        self.event_time = 0  # greatest that the version learned, milliseconds
        self.learned_offsets: dict[str, int] = {}
        self.held: dict[str, str] = {}  # models that stand still, and why
        self.num_readers = 0  # the view counts

    def user_row(self, model: str, table: str, user: bytes) -> NDArray[np.float32] | None:
        """A row by user as served ([width], rounded to fp16) of this home's version, None where there is none."""
        if self._learn is None:
            return None
        store, txn = self._learn
        with self._mutex:  # a transaction serves one thread at a time
            row = get_user_row(txn, store, model, table, user)
        return None if row is None else rounded(row).astype(np.float32)

    def catch_up(self, dictionary: Dictionary, fold: Reading, learn: Reading | None, decoded: Decoded) -> None:
        """Come to the versions that the transactions see; the learn store's is held until the next time.

        `dictionary` knows all items of the fold store. None: there is no learn store yet. An exception half-way leaves
        the home where it says it was, with some deltas applied; the next time applies them again, which is the same.
        """
        self.release()
        self._learn = learn
        self.dictionary = dictionary
        self._catch_up_fold(*fold, decoded)
        if learn is not None:
            self._catch_up_learn(*learn, decoded)

    def release(self) -> None:
        """Let go of the learn store's version."""
        if self._learn is not None:
            store, txn = self._learn
            self._learn = None
            store.end_read(txn)

    def _catch_up_fold(self, store: Store, txn: Txn, decoded: Decoded) -> None:
        assert self.dictionary is not None
        self.num_items = len(self.dictionary)
        version = get_version(txn, store, "fold")
        try:
            if not 0 < self.fold_version <= version:
                raise DeltaGap
            for delta in _deltas(txn, store, "fold", self.fold_version, decoded):
                for item in delta.items:
                    self.catalogue.apply(self.dictionary.find(item.item_id), item)
                items, timestamps = delta.entries["item"], delta.entries["timestamp"]
                self.catalogue.saw(items.astype(np.int64), timestamps.astype(np.int64))
        except DeltaGap:
            self.catalogue = CatalogueColumns(self._category_codes)
            self.catalogue.load(txn, store)
        self.catalogue.grow(self.num_items)
        self.catalogue.identify(self.dictionary)
        self.fold_version = version

    def _catch_up_learn(self, store: Store, txn: Txn, decoded: Decoded) -> None:
        version = get_version(txn, store, "learn")
        try:
            if not 0 < self.version <= version:
                raise DeltaGap
            for delta in _deltas(txn, store, "learn", self.version, decoded):
                changes = {name: of for name, of in delta.models.items() if name in self.models}
                if any(of.replaces for of in changes.values()):
                    raise DeltaGap  # what mixes a replaced model refers to it: all are built and loaded anew
                for name, of in changes.items():
                    apply_delta(self.models[name], of)
        except DeltaGap:
            self.models, numbers = self._built(txn, store), self._numbers_of(txn, store)
            for name, model in self.models.items():
                self._load(txn, store, name, model, numbers)
        self.version, self.event_time = version, get_event_time(txn, store, "learn")
        self.learned_offsets = get_offsets(txn, store, "learn")
        self.held = get_held(txn, store)

    def _built(self, txn: Txn, store: Store) -> Mapping[str, ModelT]:
        try:
            return self._bound(self._build_models(get_configs(txn, store)))
        except ValueError as error:
            text = f"store {store.path}: its models cannot be built by this program: {error}"
            raise StoreConfigurationChanged(f"{text}. Use the version that trains them") from error

    def _load(self, txn: Txn, store: Store, name: str, model: ModelT, numbers: NDArray[np.int64]) -> None:
        try:
            load_model(txn, store, name, model, training=False, numbers=numbers)
        except (LookupError, ValueError) as error:
            text = f"store {store.path}: model {name!r} is of a form that this version does not know"
            raise StoreConfigurationChanged(f"{text}. Train it anew with `runnel learn --rebuild {name}`") from error

    def _bound(self, models: Mapping[str, ModelT]) -> Mapping[str, ModelT]:
        """The models, reading their rows by user from here."""
        for name, model in models.items():
            for key, table in user_tables(model).items():
                table.bind(partial(self.user_row, name, key))
        return models

    def _numbers_of(self, txn: Txn, store: Store) -> NDArray[np.int64]:
        """By item number of the learn store, the fold store's, -1 where it has none."""
        assert self.dictionary is not None
        names = (name.decode() for _, name in txn.cursor(store.db("dictionary")))
        return np.array([self.dictionary.find(name) for name in names], np.int64)


def _deltas(txn: Txn, store: Store, stage: Stage, after_version: int, decoded: Decoded) -> Iterator[Delta]:
    for version, data in DeltaLog(store, stage).read(txn, after_version):
        yield decoded(stage, version, data)
