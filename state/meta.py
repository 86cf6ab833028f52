# What a store remembers of the settings it was written under, and the refusal when they changed.
from __future__ import annotations

import json
from collections.abc import Mapping

from state.model_state import NEXT
from state.signals import SignalTable
from state.store import Stage, Store, StoreConfigurationChanged, Txn


def get_version(txn: Txn, store: Store, stage: Stage) -> int:
    """Number of the last version of a stage that is in the store, 0 before the first."""
    return store.get_meta(txn, f"version:{stage}", int) or 0


def put_version(txn: Txn, store: Store, stage: Stage, version: int) -> None:
    """Note the version that this commit is."""
    store.put_meta(txn, f"version:{stage}", version)


def get_event_time(txn: Txn, store: Store, stage: Stage) -> int:
    """Greatest event time that a stage has taken in, milliseconds, 0 before the first."""
    return store.get_meta(txn, f"event_time:{stage}", int) or 0


def put_event_time(txn: Txn, store: Store, stage: Stage, event_time: int) -> None:
    """Note the greatest event time so far, milliseconds."""
    store.put_meta(txn, f"event_time:{stage}", event_time)


def get_held(txn: Txn, store: Store) -> dict[str, str]:
    """The models that learn nothing, for what they learned last was not to be used: name → why."""
    return store.get_meta(txn, "held", dict[str, str]) or {}


def put_held(txn: Txn, store: Store, held: Mapping[str, str]) -> None:
    """Note which models stand still, all of them."""
    if held != get_held(txn, store):
        store.put_meta(txn, "held", dict(held))


def get_rebuilds(txn: Txn, store: Store) -> dict[str, str]:
    """The models that are trained anew: name → how far that is, for a person."""
    return store.get_meta(txn, "rebuilds", dict[str, str]) or {}


def put_rebuilds(txn: Txn, store: Store, progress: Mapping[str, str]) -> None:
    """Note how far the models that are trained anew are, all of them."""
    if progress != get_rebuilds(txn, store):
        store.put_meta(txn, "rebuilds", dict(progress))


def check_signals(txn: Txn, store: Store, signals: SignalTable) -> None:
    """Keep the codes of all signals there ever were; StoreConfigurationChanged where one would mean something else."""
    stored = store.get_meta(txn, "signals", dict[str, int]) or {}
    try:
        store.put_meta(txn, "signals", signals.merged(stored))
    except ValueError as error:
        raise StoreConfigurationChanged(f"store {store.path}: {error}: codes in records cannot be changed") from None


def canonical_config(config: Mapping[str, object]) -> str:
    """A configuration (plain JSON values) as a store keeps it: equal ones are equal strings."""
    return json.dumps(config, sort_keys=True)


def get_config(txn: Txn, store: Store, name: str) -> str | None:
    """The configuration that a model was trained with, canonical; None where the store knows of none."""
    return store.get_meta(txn, f"config:{name}", str)


def put_config(txn: Txn, store: Store, name: str, canonical: str) -> None:
    """Note the configuration that a model is trained with."""
    store.put_meta(txn, f"config:{name}", canonical)


def get_configs(txn: Txn, store: Store) -> dict[str, dict[str, object]]:
    """Model → the configuration that its tables were trained with, of all served models of the store."""
    names = [name for name in store.get_meta(txn, "models", list[str]) or [] if not name.endswith(NEXT)]
    found = {name: get_config(txn, store, name) for name in names}
    return {name: json.loads(config) for name, config in found.items() if config is not None}


def check_model(txn: Txn, store: Store, name: str, config: Mapping[str, object]) -> None:
    """Keep a model's configuration (plain JSON values) at its first commit.

    Raises StoreConfigurationChanged naming the model, the keys with their old and new values, and what to do.
    """
    canonical, stored = canonical_config(config), get_config(txn, store, name)
    if stored is None:
        put_config(txn, store, name, canonical)
    elif stored != canonical:
        changes = _changes(json.loads(stored), json.loads(canonical))
        message = f"store {store.path}: model {name!r} was trained with another configuration: {changes}."
        raise StoreConfigurationChanged(f"{message} Put it back, or train anew with `runnel learn --rebuild {name}`")


def _changes(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return ", ".join(f"{key} {json.dumps(old.get(key))} → {json.dumps(new.get(key))}" for key in keys)
