# A version of the learn store that no step made: a hold, a release, a model replaced.
from __future__ import annotations

from collections.abc import Callable, Mapping

from state.deltas import Delta, DeltaLog, encode
from state.dictionary import Dictionary
from state.meta import get_event_time, get_held, get_version, put_version
from state.offsets import get_offsets
from state.store import Store, Txn


class Reopen(Exception):  # noqa: N818  named for what to do
    """The store holds a version that the open stage and its models did not make: drop them, and open them anew."""


Change = Callable[[Txn, Delta], None]  # writes to the store, and to the delta what followers must write


def amend(store: Store, now: int, change: Change) -> int:
    """Commit `change` as the next version, at the positions where the store stands; its number.

    `now` (milliseconds) stamps the delta. For the store's one writer, between two steps: a stage that is open on the
    store, and its models, must be dropped and opened anew. When `change` raises, nothing is committed.
    """
    dictionary = Dictionary(store)
    with store.write() as txn:
        delta = Delta("learn", get_version(txn, store, "learn") + 1)
        delta.offsets, delta.event_time = get_offsets(txn, store), get_event_time(txn, store, "learn")
        delta.fold_versions = store.get_meta(txn, "fold_versions", dict[str, int]) or {}
        change(txn, delta)
        delta.held = get_held(txn, store)
        put_version(txn, store, "learn", delta.version)
        DeltaLog(store).append(txn, delta.version, encode(delta, dictionary.name), now)
    return delta.version


def go_on_behind(store: Store, fold_versions: Mapping[str, int], now: int) -> int:
    """Have the learner read its folds on behind these versions, by name; the version of the commit."""

    def change(txn: Txn, delta: Delta) -> None:
        delta.fold_versions = dict(fold_versions)
        store.put_meta(txn, "fold_versions", delta.fold_versions)

    return amend(store, now, change)
