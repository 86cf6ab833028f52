# skip-cluster: how soon skips of simulated users drive a hidden cluster from their lists, and what it costs in hits.
from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from commands.demo_items import item_number
from commands.history import simulated_events
from commands.world import World, WorldConfig
from models.base import PAD, Batch, Model, Query
from models.candidates import best_items
from models.configured import config_of
from models.examples import cut_query, joined, newest_entries
from models.rank import distinct, target_ranks
from state.dictionary import Dictionary
from state.signals import SignalTable
from state.store import Store
from stream.evaluate import BATCH_EVENTS, Run
from stream.protocols.by_user import ratio, sums
from stream.protocols.protocol import Outcome, Protocol, Reference, Trial
from stream.protocols.without_skips import SUFFIX, build_pairs
from stream.readers import ReadEvent

NUM_EVENTS = 50_000
NUM_SKIPS = 3
LIST_LENGTH = 10
WARM_SHARE = 0.2  # of the stream is learned and not tested
_AFTER = tuple(f"after {k}" for k in range(1, NUM_SKIPS + 1))
METRICS = ("hr@10", "gain", "share", *_AFTER, "left", "left, page 2")
_END_MS = 1_763_649_000_000  # of the stream: any time serves
_PACE_MS = 1000  # between two skips
_WIDTH = 200  # entries of a history
_NUM_RANKED = 100  # items that a user might come to


class Takings:
    """Whether each taking is in the first ten, and the newest query of every user.

    A taking of a user who has a history is a test: its item is ranked among all items that some batch before held, less
    those of the history; ties count half.
    """

    def __init__(self, names: tuple[str, ...], num_warm: int) -> None:
        self.hits: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in names}
        self.users: list[bytes] = []  # of the tests
        self.newest: dict[bytes, Query] = {}
        self._num_warm, self._num_events, self._num_seen = num_warm, 0, 0

    def observe(self, batch: Batch, models: Mapping[str, Model]) -> None:
        """Score the batch with every model as it stands; to be called before it is learned."""
        query = batch.query
        assert query.users is not None
        for row, user in enumerate(query.users.tolist()):
            self.newest[user] = newest_entries(cut_query(query, np.array([row])), _WIDTH)
        places = self._num_events + np.arange(len(batch.items))
        has_history = (query.items != PAD).any(axis=1)
        tested = np.flatnonzero((places >= self._num_warm) & has_history & (batch.labels > 0))
        targets = np.where(batch.items < self._num_seen, batch.items, PAD)[tested]
        self.users += query.users[tested].tolist()
        for name, hits in self.hits.items() if len(tested) else ():
            ranks = target_ranks(models[name].score(query)[tested], targets, query.items[tested])
            hits.append(ranks <= LIST_LENGTH)
        self._num_events += len(batch.items)
        self._num_seen = max(self._num_seen, int(batch.items.max(initial=-1)) + 1)


def shares_after_skips(
    model: Model, query: Query, clusters: NDArray[np.int64], skip_code: int, first: int = 0
) -> NDArray[np.float64]:
    """[1 + NUM_SKIPS, Q] the share of a cluster in each user's list of ten, before and after each skip.

    The cluster is that of the list's first item. A user skips the best item of it from place `first` on; where there is
    none, nothing. From place 0, skipped items leave the list; from the second page, a list loses nothing but by what
    the model makes of the skip. Lists hold no item of the history. `clusters` [N] are by item number.
    """
    ranked = _ranked(model, query)
    cluster = clusters[ranked[:, :1]]
    found = []
    for _ in range(NUM_SKIPS):
        is_in = (clusters[ranked] == cluster) & (ranked != PAD)
        found.append(is_in[:, :LIST_LENGTH].sum(axis=1) / LIST_LENGTH)
        is_in = is_in[:, first : first + _NUM_RANKED if first else LIST_LENGTH]
        best = ranked[np.arange(len(ranked)), first + is_in.argmax(axis=1)]
        query = _with_skips(query, np.where(is_in.any(axis=1), best, PAD), skip_code)
        ranked = _ranked(model, query)
    is_in = (clusters[ranked] == cluster) & (ranked != PAD)
    return np.stack([*found, is_in[:, :LIST_LENGTH].sum(axis=1) / LIST_LENGTH])


def _ranked(model: Model, query: Query) -> NDArray[np.int64]:
    """[Q, _NUM_RANKED] items with the highest scores, less those of the history; PAD where there are fewer."""
    scores = model.score(query).copy()
    held = distinct(query.items, np.full(len(query.now), PAD))
    rows, places = np.nonzero((held >= 0) & (held < scores.shape[1]))
    scores[rows, held[rows, places]] = -np.inf
    return best_items(scores, _NUM_RANKED)


def _with_skips(query: Query, skipped: NDArray[np.int64], skip_code: int) -> Query:
    """The queries a moment later, with a skip of `skipped` [Q] as the newest entry; none where it is PAD."""
    rows, now = np.flatnonzero(skipped != PAD), query.now + _PACE_MS
    entry = {"items": skipped[rows], "signals": skip_code, "labels": 0, "at": now[rows], "in_session": True}
    changed = {}
    for name, value in entry.items():
        values = getattr(query, name).copy()
        values[rows, :-1] = values[rows, 1:]
        values[rows, -1] = value
        changed[name] = values
    return dataclasses.replace(query, now=now, **changed)


def _clusters(folder: Path, world: World) -> NDArray[np.int64]:
    """[N] the hidden first cluster of each of the learner's items."""
    with Store(folder / "learn", "learn") as store:
        dictionary = Dictionary(store)
        names = [dictionary.name(number) for number in range(len(dictionary))]
    return world.clusters[[item_number(name) for name in names], 0]


def run(trial: Trial) -> Outcome:
    """Simulated traffic in one pass; the models with and without skips learn it side by side, then users skip."""
    torch.set_num_threads(1)  # sums in one order, whatever the number of cores: the figures do not depend on it
    names = tuple(name + suffix for name in trial.models for suffix in ("", SUFFIX))
    models, observer = build_pairs(trial.models, trial.seed), Takings(names, round(WARM_SHARE * NUM_EVENTS))
    events = (ReadEvent(*event) for event in simulated_events(trial.seed, NUM_EVENTS, _END_MS))
    world = World(WorldConfig(), np.random.default_rng(trial.seed))  # the one these events are of
    with tempfile.TemporaryDirectory(prefix="runnel-evaluate-") as folder:
        for num_learned in Run(Path(folder), models, observer, trial.seed, BATCH_EVENTS).steps(events):
            trial.say(f"{num_learned:,} of {NUM_EVENTS:,} events")
        clusters = _clusters(Path(folder), world)
    users, query = sorted(observer.newest), joined([observer.newest[user] for user in sorted(observer.newest)])
    places = np.searchsorted(np.array(users, object), np.array(observer.users, object))
    num_tests = sums(np.ones(len(places)), places, len(users))
    skip_code = SignalTable().by_name["skip"].code
    found = {}
    for name in names:
        hits = ratio(sums(np.concatenate(observer.hits[name]), places, len(users)), num_tests)
        shares = shares_after_skips(models[name], query, clusters, skip_code)
        second = shares_after_skips(models[name], query, clusters, skip_code, first=LIST_LENGTH)
        lefts = {"left": ratio(shares[-1], shares[0]), "left, page 2": ratio(second[-1], second[0])}
        found[name] = {"hr@10": hits, **dict(zip(("share", *_AFTER), shares, strict=True)), **lefts}
    for name, of in found.items():
        of["gain"] = of["hr@10"] - found[name.removesuffix(SUFFIX) + SUFFIX]["hr@10"]
    return Outcome(NUM_EVENTS, found, {name: config_of(models[name]) for name in trial.models})


SKIP_CLUSTER = Protocol(
    name="skips of a hidden cluster",
    stream="simulated users",
    metrics=METRICS,
    models=("popularity", "covisitation", "transformer", "blend"),
    references=(Reference("half, without loss of hits", {"gain": 0.0, "left": 0.5}, "bound"),),
    run=run,
)
