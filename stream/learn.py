# The learn stage: folded entries become examples, examples change models, and all of it is one commit.
from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.base import Batch, Model
from models.configured import config_of
from state.deltas import Delta, DeltaLog, encode
from state.entry import SIGNAL_OFFSET
from state.follower import DeltaSource
from state.meta import check_model, check_signals, get_event_time, get_held, get_version, put_event_time, put_version
from state.model_state import NEXT
from state.offsets import LEARNED, add_totals, get_offsets, put_offsets
from state.record import RecordLimits
from state.rows import read_models
from state.signals import SignalTable
from state.store import Store, Txn
from state.tables import forget_user_rows, load_model, reading_user_rows, save_model
from stream.admission import AdmissionConfig
from stream.entry_fold import EntryFold, FoldDelta, read_deltas
from stream.examples import Example, ExampleConfig, batch_of
from stream.guard import ModelHeld, guard, hold
from stream.prequential import Prequential, PrequentialConfig
from stream.rebuild import ModelRebuilt, RebuildConfig, Rebuilds, canonical, switch

Observer = Callable[[Batch, Mapping[str, Model]], None]


@dataclass(frozen=True)
class LearnConfig:
    """Settings of the learn stage."""

    batch_size: int = 256
    max_entries_per_step: int = 10_000  # a step ends with the delta that reaches it
    replay_ratio: float = 0.25  # examples drawn from stored records for each one of the stream, gradient models alone
    replay_weight: float = 0.25  # how much such an example counts beside one of the stream
    cache_users: int = 20_000
    examples: ExampleConfig = field(default_factory=ExampleConfig)
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)
    records: RecordLimits = field(default_factory=RecordLimits)  # as the fold's, or entries would be late here alone
    prequential: PrequentialConfig = field(default_factory=PrequentialConfig)
    rebuild: RebuildConfig = field(default_factory=RebuildConfig)

    def __post_init__(self) -> None:
        if self.rebuild.min_tests >= self.prequential.window:
            least = f"must be below prequential.window = {self.prequential.window}, or no rebuild ends"
            raise ValueError(f"rebuild.min_tests = {self.rebuild.min_tests} {least}")


@dataclass(frozen=True, slots=True)
class LearnResult:
    """What one step did. `version` is that of its delta; without new deltas nothing is committed."""

    num_deltas: int
    num_examples: int
    num_sampled_out: int  # of them, those that gradient models did not train on
    version: int
    losses: dict[str, float]  # mean over the step's batches, of models that have a loss
    held: dict[str, str] = field(default_factory=dict)  # models that learn nothing, and why
    hits: dict[str, list[bool]] = field(default_factory=dict)  # by model, of the step's prequential tests
    refused: dict[str, int] = field(default_factory=dict)  # by model, batches with an update that was refused


@dataclass(slots=True)
class _Tally:
    """What the batches of a step gave."""

    losses: dict[str, list[float]]  # of the models that learn, batch by batch
    hits: dict[str, list[bool]] = field(default_factory=dict)

    def mean_losses(self) -> dict[str, float]:
        finite = {name: [loss for loss in found if math.isfinite(loss)] for name, found in self.losses.items()}
        return {name: sum(found) / len(found) for name, found in finite.items() if found}

    def num_refused(self) -> dict[str, int]:
        """Batches of which a gradient was not finite; of models that have one."""
        return {name: count for name, found in self.losses.items() if (count := sum(map(math.isinf, found)))}


class LearnStage:
    """Reads the deltas of fold stores and owns a learn store: models, and records with the sequence alone.

    A step is one commit, in this order:

    1. Read the folds' deltas after the stored positions.
    2. Fold their entries into own records; each new entry is an example, its history cut just before it.
    3. Batch by batch, in arrival order: forget the rows of items that expire before it, score some, then learn.
       Counters learn every example; gradients are computed of those that were not sampled out, for models that replay
       with replayed ones.
    4. In one transaction write records, dictionary and the users to replay,
    5. of each model the touched rows, cells, dense weights and training state, if all of them are finite: a model that
       is not stops this commit, and is held from the next one on,
    6. the generator's state, prequential metrics and totals,
    7. fold positions, learned offsets and event time,
    8. version n+1 and its delta;
    9. commit. Only now does any of it exist; whatever stops the process before leaves the store at version n, and what
       was folded but not learned is read again.

    When `step` raises, drop the stage and the models: open the store anew and go on from what is stored.
    """

    def __init__(
        self,
        store: Store,
        folds: Mapping[str, DeltaSource],
        models: Mapping[str, Model],
        rng: np.random.Generator,
        signals: SignalTable | None = None,
        config: LearnConfig | None = None,
    ) -> None:
        self._store, self._folds, self.models, self._rng = store, dict(folds), dict(models), rng
        self._signals, self._config = signals or SignalTable(), config or LearnConfig()
        records, examples, cache_users = self._config.records, self._config.examples, self._config.cache_users
        self._folded = EntryFold(store, self._signals, records, examples, cache_users, self._config.admission)
        self._deltas = DeltaLog(store)
        with store.write() as txn:
            check_signals(txn, store, self._signals)
            for name, model in self.models.items():
                check_model(txn, store, name, config_of(model))
        with store.read() as txn:
            self._load(txn)

    def _load(self, txn: Txn) -> None:
        store = self._store
        self.version = get_version(txn, store, "learn")
        self.offsets = get_offsets(txn, store)
        self.fold_versions: dict[str, int] = store.get_meta(txn, "fold_versions", dict[str, int]) or {}
        self._event_time = get_event_time(txn, store, "learn")
        self.held = get_held(txn, store)
        self.sampled_out_total = store.get_meta(txn, "sampled_out", int) or 0
        sums = store.get_meta(txn, "prequential", dict[str, tuple[float, float]])
        self.prequential = Prequential(self._config.prequential, sums)
        generator = store.get_meta(txn, "generator", str)
        if generator is not None:
            self._rng.bit_generator.state = json.loads(generator)
        self._stored = set(read_models(txn, store))  # all others are told whole, with what they are built by
        for name, model in self.models.items():
            load_model(txn, store, name, model, training=True)
        self.rebuilds = Rebuilds(txn, store, self.models, self._config.rebuild)

    @np.errstate(all="ignore")  # what is not finite is the guard's to see
    def step(self, now: int, max_trained: int | None = None, observer: Observer | None = None) -> LearnResult:
        """Learn what was folded and commit it.

        `now` (milliseconds) stamps the delta, for its retention alone. Gradient models train on at most `max_trained`
        of the step's examples, a uniform sample; None: on all. `observer` sees every batch before it is learned.
        """
        # 1. Read.
        read = read_deltas(self._folds, self.fold_versions, self._config.max_entries_per_step)
        if not read and not self.rebuilds.are_behind(self.held):
            return LearnResult(0, 0, 0, self.version, {}, self.held)
        # 2. Fold.
        segments = self._folded.fold(read)
        examples = [example for segment in segments for example in segment.examples]
        # 3. Score, then learn.
        kept = self._sample(len(examples), max_trained)
        tally = _Tally({name: [] for name in self.models if name not in self.held})
        num_before = 0
        with reading_user_rows(self._store, self.models) as txn:
            self._learn_stored(txn, tally)
            for expired, part in segments:
                self._expire(expired)
                self._learn(txn, part, kept[num_before : num_before + len(part)], tally, observer)
                num_before += len(part)
        num_sampled_out = len(examples) - int(kept.sum())
        self.sampled_out_total += num_sampled_out
        try:
            self._commit(read, examples, tally.losses, now)
        except ModelHeld as held:
            hold(self._store, held.reasons, now)
            raise
        for name in self.rebuilds.due(self.prequential, self.held):
            version = switch(self._store, name, self.models[name + NEXT], now)
            raise ModelRebuilt(f"model {name} was rebuilt, and is served from version {version} on")
        counts = len(read), len(examples), num_sampled_out
        losses, refused = tally.mean_losses(), tally.num_refused()
        return LearnResult(*counts, self.version, losses, self.held, tally.hits, refused)

    def _sample(self, num_examples: int, max_trained: int | None) -> NDArray[np.bool_]:
        """[num_examples] which examples gradient models train on."""
        if max_trained is None or num_examples <= max_trained:
            return np.ones(num_examples, np.bool_)
        kept = np.zeros(num_examples, np.bool_)
        kept[self._rng.permutation(num_examples)[:max_trained]] = True
        return kept

    def _expire(self, items: NDArray[np.int64]) -> None:
        if len(items):
            for model in self.models.values():
                for table in model.tables.values():
                    table.remove(items)

    def _learn(
        self,
        txn: Txn,
        examples: Sequence[Example],
        kept: NDArray[np.bool_],
        tally: _Tally,
        observer: Observer | None,
    ) -> None:
        """Learn a segment's batches. The transaction is what replay draws from."""
        losses = tally.losses
        counters = {name: self.models[name] for name in losses if not self.models[name].replays}
        gradient = {name: self.models[name] for name in losses if self.models[name].replays}
        untested = self.rebuilds.untested()
        tested = {name: model for name, model in self.models.items() if name not in untested}
        sampled: list[Example] = []  # for gradient models, and not yet trained on
        size = self._config.batch_size
        for start in range(0, len(examples), size):
            chunk, chosen = examples[start : start + size], kept[start : start + size]
            batch = batch_of(chunk, self._signals, self._config.examples)
            if not chosen.all():
                batch = dataclasses.replace(batch, sampled=chosen)
            if start % (2 * size) == 0:  # of each, they took a quarter of the counters' time
                for name, found in self.prequential.observe(batch, tested).items():
                    tally.hits.setdefault(name, []).extend(found)
            if observer is not None:
                observer(batch, self.models)
            for name, model in counters.items():
                losses[name].append(model.learn(self.rebuilds.part(name, chunk, batch)))
            if gradient:
                sampled += [example for example, keep in zip(chunk, chosen, strict=True) if keep]
            while len(sampled) >= size or (sampled and start + size >= len(examples)):
                taken, sampled = sampled[:size], sampled[size:]
                trained = self._with_replay(txn, taken)
                for name, model in gradient.items():
                    losses[name].append(model.learn(self.rebuilds.part(name, taken, trained)))

    def _learn_stored(self, txn: Txn, tally: _Tally) -> None:
        """Let models that are rebuilt learn the next examples of stored records."""
        size = self._config.batch_size
        for name, losses in tally.losses.items():
            examples = self.rebuilds.stored(txn, self._folded, name, self.prequential)
            for start in range(0, len(examples), size):
                batch = batch_of(examples[start : start + size], self._signals, self._config.examples)
                losses.append(self.models[name].learn(batch))

    def _with_replay(self, txn: Txn, examples: Sequence[Example]) -> Batch:
        num_replayed = round(self._config.replay_ratio * len(examples))
        replayed = self._folded.draw(txn, self._rng, num_replayed) if num_replayed else []
        batch = batch_of([*examples, *replayed], self._signals, self._config.examples)
        batch.weights[len(examples) :] *= self._config.replay_weight
        return batch

    def _commit(
        self, read: Sequence[FoldDelta], examples: Sequence[Example], losses: Mapping[str, list[float]], now: int
    ) -> None:
        fold_versions, offsets = dict(self.fold_versions), dict(self.offsets)
        for fold, folded, _ in read:
            fold_versions[fold] = folded.version
            several = len(self._folds) > 1  # then each tells of the items that all read, and none takes it back
            offsets |= {p: max(n, offsets.get(p, 0)) if several else n for p, n in folded.offsets.items()}
            self._event_time = max(self._event_time, folded.event_time)
        delta = Delta("learn", self.version + 1, offsets, self._event_time, fold_versions=fold_versions)
        delta.held, delta.totals = self.held, self._totals(examples)
        delta.deleted_users = [pair for _, folded, _ in read for pair in folded.deleted_users]
        with self._store.write() as txn:
            # 4. Records, dictionary, users.
            self._folded.flush(txn)
            # 5. Models.
            for user, _ in delta.deleted_users:  # with what the step learned of them, before or since
                forget_user_rows(txn, self._store, user, self.models)
            changes = {name: save_model(txn, self._store, name, model) for name, model in self.models.items()}
            guard(self.models, changes, losses, self.version)
            delta.models = {name: changed for name, changed in changes.items() if not name.endswith(NEXT)}
            for name, changed in delta.models.items():
                if name not in self._stored:
                    changed.config, changed.replaces = canonical(self.models[name]), True
            self.rebuilds.save(txn, self.prequential)
            # 6. Generator, metrics, totals.
            self._store.put_meta(txn, "generator", json.dumps(self._rng.bit_generator.state))
            self._store.put_meta(txn, "prequential", self.prequential.sums)
            self._store.put_meta(txn, "sampled_out", self.sampled_out_total)
            add_totals(txn, self._store, delta.totals)
            # 7. Positions.
            self._store.put_meta(txn, "fold_versions", fold_versions)
            put_offsets(txn, self._store, offsets)
            put_event_time(txn, self._store, "learn", self._event_time)
            # 8. Version and delta.
            put_version(txn, self._store, "learn", delta.version)
            self._deltas.append(txn, delta.version, encode(delta, self._folded.dictionary.name), now)
        # 9. Committed.
        self.version, self.offsets, self.fold_versions = delta.version, offsets, fold_versions
        self._stored |= delta.models.keys()

    def _totals(self, examples: Sequence[Example]) -> dict[tuple[str, str], int]:
        codes, counts = np.unique([example.target[SIGNAL_OFFSET] for example in examples], return_counts=True)
        by_code = self._signals.by_code
        return {(by_code[int(code)].name, LEARNED): int(count) for code, count in zip(codes, counts, strict=True)}
