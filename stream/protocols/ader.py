# ADER: weeks of sessions, each tested on what was learned of the weeks before it, and then learned.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from models.base import PAD, Batch, Model, Query
from models.configured import configs_of
from models.examples import cut
from models.rank import target_ranks
from models.registry import build_models
from state.signals import SignalTable
from stream.protocols.metrics import ROWS, counted
from stream.protocols.protocol import Outcome, Protocol, Reference, Trial
from stream.readers import WEEK_MS, open_data_set

METRICS: Final = ("recall@20", "mrr@20", "recall@10", "mrr@10")
MAX_ENTRIES = 50  # of a history
BATCH_EVENTS = 256  # events between two updates of the models
_VIEW = SignalTable().by_name["view"].code
_Counts = Mapping[str, Mapping[str, NDArray[np.float64]]]  # model → metric → [tests]


class Views(NamedTuple):
    """N views in the order of the stream; items are numbered as they first occur, sessions in any way."""

    sessions: NDArray[np.int64]  # [N]
    items: NDArray[np.int64]  # [N]
    at: NDArray[np.int64]  # [N] milliseconds, ascending

    def rows(self, rows: NDArray[np.bool_]) -> Views:
        """Some of them."""
        return Views(*(values[rows] for values in self))

    def examples(self) -> Batch:
        """Each with the views of its session before it as its history."""
        order = np.argsort(self.sessions, kind="stable")
        ordered = self.sessions[order]
        places = np.arange(len(order))[:, None] - np.arange(MAX_ENTRIES, 0, -1)
        before = np.empty_like(places)
        before[order] = np.where(places >= np.searchsorted(ordered, ordered)[:, None], order[np.maximum(places, 0)], -1)
        present = before >= 0
        query = Query(
            items=np.where(present, self.items[before], PAD),
            signals=np.where(present, np.uint8(_VIEW), np.uint8(0)),
            labels=present.astype(np.float32),
            at=np.where(present, self.at[before], 0),
            in_session=present,
            now=self.at,
        )
        ones = np.ones(len(self.items), np.float32)
        return Batch(query, self.items, ones, ones)


def read_weeks(data: Path) -> list[Views]:
    """The weeks of DIGINETICA. Raises DataError naming a file that is absent or wrong."""
    decode = msgspec.json.Decoder(_View).decode
    views = [decode(event.value) for event in open_data_set("diginetica", data)[0]]
    numbers: dict[str, int] = {}
    items = np.array([numbers.setdefault(view.item_id, len(numbers)) for view in views], np.int64)
    at = np.array([view.timestamp for view in views], np.int64)
    whole = Views(np.array([int(view.session_id) for view in views], np.int64), items, at)
    weeks = (at - at[0]) // WEEK_MS
    return [whole.rows(weeks == week) for week in range(int(weeks[-1]) + 1)]


def views_tested(week: Views, num_seen: int) -> Batch:
    """The views of a week that are tests.

    Items that no week before held are left out, of histories too; each view with another one before it is a test.
    """
    known = week.rows(week.items < num_seen).examples()
    return cut(known, np.flatnonzero(known.query.items[:, -1] != PAD))


def run_ader(trial: Trial, is_frozen: bool) -> Outcome:
    """Test every week but the first and learn it, each event once; nothing is replayed.

    Models that are not frozen learn each batch of a week before the next one is tested. A test counts for as much as
    makes all weeks alike, for the published figures are means over weeks.
    """
    torch.set_num_threads(1)  # sums in one order, whatever the number of cores: the figures do not depend on it
    models, weeks = build_models(trial.models, trial.seed), read_weeks(trial.data)
    counts: list[_Counts] = []
    num_seen = 0
    for number, week in enumerate(weeks):
        examples, tests = week.examples(), views_tested(week, num_seen)
        ranks: dict[str, list[NDArray[np.float64]]] = {name: [np.zeros(0)] for name in trial.models}
        size = len(week.at) if is_frozen else BATCH_EVENTS
        for start in range(0, len(week.at), size):
            part = cut(examples, slice(start, start + size))
            if number:
                _rank(models, tests, part, ranks)
            _learn(models, part)
        num_seen = max(num_seen, int(week.items.max()) + 1)
        if number:
            counts.append({name: counted(np.concatenate(found), METRICS) for name, found in ranks.items()})
            trial.say(f"week {number}: " + ", ".join(f"{name} {_told(of)}" for name, of in counts[-1].items()))
    config = configs_of(models)
    return Outcome(sum(len(week.at) for week in weeks), _even(counts), config)


def _rank(models: Mapping[str, Model], tests: Batch, part: Batch, ranks: dict[str, list[NDArray[np.float64]]]) -> None:
    """Rank the targets of those tests that are among the part's views, in the time it spans."""
    span = np.searchsorted(tests.query.now, [part.query.now[0], part.query.now[-1] + 1])
    for start in range(span[0], span[1], ROWS):
        rows = cut(tests, slice(start, min(start + ROWS, int(span[1]))))
        for name, found in ranks.items():
            found.append(target_ranks(models[name].score(rows.query), rows.items))


def _learn(models: Mapping[str, Model], part: Batch) -> None:
    for start in range(0, len(part.items), BATCH_EVENTS):
        batch = cut(part, slice(start, start + BATCH_EVENTS))
        for model in models.values():
            model.learn(batch)


def _even(weeks: Sequence[_Counts]) -> dict[str, dict[str, NDArray[np.float64]]]:
    """The weeks' tests in one row, weighted so that their mean is the mean of the weeks' means."""
    total = sum(len(of[METRICS[0]]) for week in weeks for of in [next(iter(week.values()))])

    def joined(name: str, metric: str) -> NDArray[np.float64]:
        found = [week[name][metric] for week in weeks]
        return np.concatenate([counts * (total / (len(weeks) * len(counts))) for counts in found])

    return {name: {metric: joined(name, metric) for metric in METRICS} for name in weeks[0]}


def _told(counts: Mapping[str, NDArray[np.float64]]) -> str:
    return " ".join(f"{counts[metric].mean():.4f}" for metric in METRICS[:2])


class _View(msgspec.Struct):
    session_id: str
    item_id: str
    timestamp: int


def _figures(*values: float) -> dict[str, float]:
    return dict(zip(METRICS, values, strict=True))


_REFERENCES: Final = (
    Reference("count table, last 5 items", _figures(0.4591, 0.1547, 0.3449, 0.1468), "floor"),
    Reference("fine-tuning each week", _figures(0.4728, 0.1601, 0.3500, 0.1516), "Mi et al. 2020"),
    Reference("training on all weeks", _figures(0.5003, 0.1731, 0.3727, 0.1643), "Mi et al. 2020"),
    Reference("ADER, to convergence each week", _figures(0.5021, 0.1732, 0.3752, 0.1645), "Mi et al. 2020"),
)
_MODELS: Final = ("popularity", "covisitation", "transformer", "blend")
ADER = Protocol("ADER", "diginetica", METRICS, _MODELS, _REFERENCES, lambda trial: run_ader(trial, is_frozen=True))
ADER_UPDATED = Protocol(
    "ADER, updated within the week",
    "diginetica",
    METRICS,
    _MODELS,
    _REFERENCES,
    lambda trial: run_ader(trial, is_frozen=False),
)
