# forgetting: what a day of other people's traffic takes from what the models know of a cohort, with replay and without.
from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from xxhash import xxh64_intdigest

from models.base import PAD, Batch, Model, Query
from models.configured import configs_of
from models.examples import cut, cut_query, joined, newest_entries
from models.registry import build_models
from state.model_state import user_tables
from stream.evaluate import BATCH_EVENTS, Run
from stream.learn import LearnConfig
from stream.protocols.by_user import ratio
from stream.protocols.protocol import Outcome, Protocol, Reference, Trial
from stream.protocols.wrapped import Wrapped
from stream.readers import ReadEvent, open_data_set

METRICS = ("before", "after", "rise", "of no replay")
HOUR_MS: Final = 3_600_000
NO_REPLAY: Final = ", no replay"
_COHORT_OF: Final = 20  # one user of so many
_WIDTH: Final = 50  # entries of a history
_ROWS: Final = 64  # tests scored at a time: bounds memory


class Stretch(NamedTuple):
    """Of a stream, in hours after its first event: what is learned of everybody, then of all but the cohort."""

    begin: float
    until: float
    end: float


class Split(NamedTuple):
    """Events to learn, and which of them are tests, which no model learns: the last of each of the cohort's users."""

    events: list[ReadEvent]
    tests: frozenset[tuple[bytes, int]]  # user and time
    until_ms: int  # from here on the cohort is silent


class _Click(msgspec.Struct):
    user_id: str


def in_cohort(user: str) -> bool:
    """Decided by the id alone, before any run."""
    return xxh64_intdigest(user.encode()) % _COHORT_OF == 0


def split(events: Sequence[ReadEvent], stretch: Stretch) -> Split:
    """The stretch of a stream that is ordered by time."""
    first, decode = events[0].timestamp, msgspec.json.Decoder(_Click).decode
    begin, until, end = (first + round(hours * HOUR_MS) for hours in stretch)
    kept, last = [], dict[bytes, int]()
    for event in events:
        if not begin <= event.timestamp < end:
            continue
        user = decode(event.value).user_id
        if in_cohort(user):
            if event.timestamp >= until:
                continue
            last[user.encode()] = event.timestamp
        kept.append(event)
    return Split(kept, frozenset(last.items()), until)


class Withheld(Wrapped):
    """A model that never learns some of the examples, replayed or not."""

    def __init__(self, model: Model, tests: frozenset[tuple[bytes, int]]) -> None:
        super().__init__(model)
        self._tests = tests

    def learn(self, batch: Batch) -> float:
        """All but the tests."""
        found = is_test(batch.query, self._tests)
        return self.model.learn(cut(batch, np.flatnonzero(~found)) if found.any() else batch)


def is_test(query: Query, tests: frozenset[tuple[bytes, int]]) -> NDArray[np.bool_]:
    """[Q] whether it is that of a test."""
    assert query.users is not None
    return np.array([pair in tests for pair in zip(query.users.tolist(), query.now.tolist(), strict=True)], np.bool_)


class Cohort:
    """Collects the tests as they pass, and takes the log losses once the cohort has fallen silent."""

    def __init__(self, names: tuple[str, ...], parts: Split) -> None:
        self.before: dict[str, NDArray[np.float64]] = {}
        self._names, self._parts = names, parts
        self._queries: list[Query] = []
        self._targets: list[NDArray[np.int64]] = []
        self._learned = set[int]()  # items
        self._items = np.zeros(0, np.int64)

    def observe(self, batch: Batch, models: Mapping[str, Model]) -> None:
        """To be called before the batch is learned."""
        found = is_test(batch.query, self._parts.tests)
        if not self.before and int(batch.query.now.min()) >= self._parts.until_ms:
            self._items = np.array(sorted(self._learned), np.int64)
            self.before = self.losses(models)
        self._learned.update(batch.items[~found].tolist())
        tested = np.flatnonzero(found & (batch.query.items != PAD).any(axis=1))
        if len(tested):
            self._queries.append(newest_entries(cut_query(batch.query, tested), _WIDTH))
            self._targets.append(batch.items[tested])

    def losses(self, models: Mapping[str, Model]) -> dict[str, NDArray[np.float64]]:
        """Model → [tests] -log of the softmax of its scores, at the target of each test.

        The candidates are the items that were learned before the cohort fell silent; the tests are those of users who
        have a history, and of such an item. Both are the same at every call.
        """
        query, targets = joined(self._queries), np.concatenate(self._targets)
        places = np.searchsorted(self._items, targets)
        known = np.flatnonzero(self._items[np.minimum(places, len(self._items) - 1)] == targets)
        found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in self._names}
        for start in range(0, len(known), _ROWS):
            rows = known[start : start + _ROWS]
            part = cut_query(query, rows)
            for name, losses in found.items():
                scores = models[name].score(part, self._items).astype(np.float64)
                losses.append(np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(rows)), places[rows]])
        return {name: np.concatenate(losses) for name, losses in found.items()}


def log_losses(
    names: tuple[str, ...], parts: Split, seed: int, config: LearnConfig
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Of the same tests, by model: when the cohort falls silent, and at the end.

    Raises ValueError for a model with rows by user: these are in the store, which is closed then.
    """
    models: dict[str, Model] = {name: Withheld(model, parts.tests) for name, model in build_models(names, seed).items()}
    for name, model in models.items():
        if user_tables(model):
            raise ValueError(f"model {name!r} has rows by user, which this protocol does not read")
    observer = Cohort(names, parts)
    with tempfile.TemporaryDirectory(prefix="runnel-evaluate-") as folder:
        for _ in Run(Path(folder), models, observer, seed, BATCH_EVENTS, config).steps(iter(parts.events)):
            pass
        return observer.before, observer.losses(models)


def run(trial: Trial, stretch: Stretch) -> Outcome:
    """One pass with replay as by default, and one without."""
    torch.set_num_threads(1)  # sums in one order, whatever the number of cores: the figures do not depend on it
    parts = split(list(open_data_set("globo", trial.data)[0]), stretch)
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    for suffix, config in ((NO_REPLAY, LearnConfig(replay_ratio=0.0)), ("", LearnConfig())):
        before, after = log_losses(trial.models, parts, trial.seed, config)
        for name in trial.models:
            rise = ratio(after[name] - before[name], before[name])
            found[name + suffix] = {"before": before[name], "after": after[name], "rise": rise}
            found[name + suffix]["of no replay"] = ratio(rise, found[name + NO_REPLAY]["rise"])
            trial.say(f"{name}{suffix}: {before[name].mean():.4f} to {after[name].mean():.4f}")
    configs = configs_of(build_models(trial.models, trial.seed))
    return Outcome(len(parts.events), found, configs)


FORGETTING = Protocol(
    name="forgetting in 24 h of other traffic",
    stream="globo, hours 48 to 96",
    metrics=METRICS,
    models=("transformer",),
    references=(Reference("half of the rise without replay", {"of no replay": 0.5}, "bound"),),
    run=lambda trial: run(trial, Stretch(48, 72, 96)),
)
