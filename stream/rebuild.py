# Rebuilding a model: a new one is trained beside the served one, on stored records and live, and takes its place.
from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from models.base import Batch, Mixture, Model
from models.configured import Configs, config_of
from models.examples import cut
from state.delta import Delta
from state.meta import (
    canonical_config,
    get_config,
    get_configs,
    get_held,
    get_rebuilds,
    put_config,
    put_held,
    put_rebuilds,
)
from state.model_state import NEXT
from state.rows import read_models
from state.store import Store, Txn
from state.tables import drop_model, replace_model
from stream.amend import Reopen, amend
from stream.entry_fold import EntryFold
from stream.examples import Example
from stream.prequential import Prequential
from stream.replay import place_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RebuildConfig:
    """How fast a new model learns what is stored, and when it takes the old one's place."""

    examples_per_step: int = 512  # of stored records, beside those that come
    min_tests: int = 1000  # of both models, as the fading window counts them (below its `window`), before they compare


class ModelRebuilt(Reopen):
    """A new model took the place of the served one."""


class RebuildState(msgspec.Struct):
    """How far a rebuild is; in the store's meta as `rebuild:NAME`."""

    after: bytes = b""  # place in the users by hash: those up to it learn live, of the others what is stored later
    is_replayed: bool = False


def begin(store: Store, name: str) -> None:
    """Note that a model is to be rebuilt, from the beginning; the learner does it once it opens the store.

    It may be one that the store does not have yet: then the learner adds it, empty, and builds it beside that. Raises
    ValueError where nothing was learned so far, or naming the models where there is none of that name.
    """
    from models.registry import MODELS  # torch, which the fold process does without

    with store.read() as txn:
        learned = read_models(txn, store)
    if name not in MODELS or not learned:
        names = ", ".join(sorted(MODELS)) if learned else "none before something is learned"
        raise ValueError(f"no model {name!r} can be rebuilt; there are {names}")
    with store.write() as txn:
        _forget(txn, store, name)
        store.put_meta(txn, f"rebuild:{name}", RebuildState())
        put_rebuilds(txn, store, {**get_rebuilds(txn, store), name: "to begin when the learner runs"})


def cancel(store: Store, name: str) -> None:
    """Forget a rebuild; the served model stays. Raises ValueError where there is none."""
    with store.write() as txn:
        if _state(txn, store, name) is None:
            raise ValueError(f"model {name!r} is not being rebuilt")
        _forget(txn, store, name)


def open_models(store: Store, names: Iterable[str], seed: int, configs: Configs) -> dict[str, Model]:
    """Fresh models as the settings have them; where one is rebuilt the served one, as it was trained, and the new one
    as NAME.next. One that is rebuilt because this version has another form of it begins anew, and is served so.

    Raises ValueError naming a configuration that cannot be built.
    """
    from models.registry import build_model, build_models  # as above

    names = list(names)
    wanted = build_models(names, seed, configs)
    with store.read() as txn:
        rebuilt = [name for name in wanted if _state(txn, store, name) is not None]
        stored = get_configs(txn, store)
    if not rebuilt:
        return wanted
    served = build_models(wanted, seed, {**configs, **{name: stored[name] for name in rebuilt if name in stored}})
    gone = [name for name in rebuilt if name in stored and canonical(served[name]) != canonical_config(stored[name])]
    if gone:
        _drop(store, gone)
        return open_models(store, names, seed, configs)
    following = {name: build_model(name, seed, served, configs) for name in rebuilt}
    for name, model in following.items():
        with store.read() as txn:
            trained_with = get_config(txn, store, name + NEXT)
        if trained_with not in (None, canonical(model)):
            _log.warning("the rebuild of model %s begins again: its configuration changed", name)
            begin(store, name)
    return {**{name + NEXT: model for name, model in following.items()}, **served}  # a mixture learns before its parts


def _drop(store: Store, names: Iterable[str]) -> None:
    """Forget models of a form that this program does not know."""
    with store.write() as txn:
        for name in names:
            drop_model(txn, store, name)
            _log.warning("model %s is of a form that this version does not know: it begins anew", name)


def canonical(model: Model) -> str:
    """Its configuration as a store keeps it."""
    return canonical_config(config_of(model))


class Rebuilds:
    """The rebuilds that a learn stage has under way: of its models, those named NAME.next.

    Each learns some of the stored examples in every step, user by user in the order of their hashes; of what comes it
    learns that of the users it has come to: the rest is stored, and learned with them. (A mixture learns what comes
    alone.) Once it has seen every user, it is tested beside the served one; when its hit rate over enough tests is at
    least as good, it takes its place in a commit of its own. All of it is in the step's commit: a kill resumes it.
    """

    def __init__(self, txn: Txn, store: Store, models: Mapping[str, Model], config: RebuildConfig) -> None:
        self._store, self._models, self._config = store, models, config
        found = {name: _state(txn, store, name) for name in _rebuilt(models)}
        self._states = {name: state for name, state in found.items() if state is not None}

    def are_behind(self, held: Mapping[str, str]) -> bool:
        """Whether any has stored examples to learn."""
        return any(not state.is_replayed and name + NEXT not in held for name, state in self._states.items())

    def untested(self) -> set[str]:
        """Names of the models that are not to be tested yet."""
        return {name + NEXT for name, state in self._states.items() if not state.is_replayed}

    def part(self, name: str, examples: Sequence[Example], batch: Batch) -> Batch:
        """What of a batch a model is to learn now: all of it, but for a model NAME.next that has not come to all users.
        `batch` is of the examples, and of replayed ones behind them."""
        state = self._walking(name)
        if state is None:
            return batch
        is_new = np.ones(len(batch.items), np.bool_)
        is_new[: len(examples)] = [place_of(example.user) <= state.after for example in examples]
        return cut(batch, np.flatnonzero(is_new))

    def stored(self, txn: Txn, folded: EntryFold, name: str, prequential: Prequential) -> list[Example]:
        """The next stored examples for a model NAME.next; none where it has had all, or is no such model."""
        state = self._walking(name)
        if state is None:
            return []
        mixes = isinstance(self._models[name], Mixture)  # its parts have seen what is stored: it learns live alone
        examples, after = ([], None) if mixes else folded.walk(txn, state.after, self._config.examples_per_step)
        state.after, state.is_replayed = after or state.after, after is None
        if state.is_replayed:  # from now on both are tested, with the same examples
            prequential.begin((name, name.removesuffix(NEXT)))
        return examples

    def _walking(self, name: str) -> RebuildState | None:
        """How far a model NAME.next has come with what is stored; None for one that has had all, or any other."""
        state = self._states.get(name.removesuffix(NEXT)) if name.endswith(NEXT) else None
        return None if state is None or state.is_replayed else state

    def progress(self, prequential: Prequential) -> dict[str, str]:
        """Model → how far its rebuild is, for a person."""
        rates, told = prequential.hit_rates(), {}
        for name, state in self._states.items():
            if not state.is_replayed:
                told[name] = f"{int.from_bytes(state.after[:8], 'big') / 2**64:.0%} of the users learned"
            else:
                tests = prequential.sums.get(name + NEXT, (0.0, 0.0))[0]
                new, old = rates.get(name + NEXT, 0.0), rates.get(name, 0.0)
                told[name] = f"all users learned, hit rate {new:.3f} beside {old:.3f} in {tests:.0f} tests"
        return told

    def due(self, prequential: Prequential, held: Mapping[str, str]) -> list[str]:
        """The models whose new ones are to take their place now."""
        rates, due = prequential.hit_rates(), []
        for name, state in self._states.items():
            tests = min(prequential.sums.get(key, (0.0, 0.0))[0] for key in (name, name + NEXT))
            if state.is_replayed and name + NEXT not in held and tests >= self._config.min_tests:
                due += [name] if rates[name + NEXT] >= rates[name] else []
        return due

    def save(self, txn: Txn, prequential: Prequential) -> None:
        """Write how far they are."""
        put_rebuilds(txn, self._store, self.progress(prequential))
        for name, state in self._states.items():
            self._store.put_meta(txn, f"rebuild:{name}", state)


def switch(store: Store, name: str, model: Model, now: int) -> int:
    """Commit that `model` takes the place of the served one, whose hold ends; the version."""

    def change(txn: Txn, delta: Delta) -> None:
        delta.models[name] = replace_model(txn, store, name, model, stored_as=name + NEXT)
        delta.models[name].config = canonical(model)
        put_config(txn, store, name, canonical(model))
        sums = store.get_meta(txn, "prequential", dict[str, tuple[float, float]]) or {}
        store.put_meta(txn, "prequential", {**sums, name: sums[name + NEXT]})
        put_held(txn, store, {held: why for held, why in get_held(txn, store).items() if held != name})
        _forget(txn, store, name)

    return amend(store, now, change)


def _rebuilt(models: Iterable[str]) -> list[str]:
    return [name.removesuffix(NEXT) for name in models if name.endswith(NEXT)]


def _state(txn: Txn, store: Store, name: str) -> RebuildState | None:
    return store.get_meta(txn, f"rebuild:{name}", RebuildState)


def _forget(txn: Txn, store: Store, name: str) -> None:
    drop_model(txn, store, name + NEXT)
    txn.delete(f"rebuild:{name}".encode(), db=store.db("meta"))
    put_rebuilds(txn, store, {other: text for other, text in get_rebuilds(txn, store).items() if other != name})
    sums = store.get_meta(txn, "prequential", dict[str, tuple[float, float]]) or {}
    store.put_meta(txn, "prequential", {key: pair for key, pair in sums.items() if key != name + NEXT})
    put_held(txn, store, {held: why for held, why in get_held(txn, store).items() if held != name + NEXT})
