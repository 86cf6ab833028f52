# PREQ-5★: the ratings of five stars as a stream, each tested before it is learned.
from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from models.base import PAD, Batch, Model
from models.configured import configs_of
from models.rank import target_ranks
from models.registry import build_models
from stream.evaluate import Run
from stream.protocols.metrics import counted
from stream.protocols.protocol import Outcome, Protocol, Reference, Trial
from stream.readers import DataError, ReadEvent, read_ml_100k_ratings

METRICS = ("recall@10", "mrr@10")
BATCH_EVENTS = 16  # the stream is short: models that learn every 256 events are behind for much of it
WARM_SHARE = 0.2  # of the stream is learned and not tested
_FILE = "ml-100k/u.data"


class Preq5Star:
    """Ranks the item of each event of a known user among all items seen so far, less those the user had.

    The first `num_warm` events are no tests. An item that no batch before held is a miss; ties count half.
    """

    def __init__(self, names: tuple[str, ...], num_warm: int) -> None:
        self.ranks: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
        self._num_warm, self._num_events, self._num_seen = num_warm, 0, 0

    def observe(self, batch: Batch, models: Mapping[str, Model]) -> None:
        """Score the batch with every model as it stands; to be called before it is learned."""
        query, places = batch.query, self._num_events + np.arange(len(batch.items))
        tested = np.flatnonzero((places >= self._num_warm) & (query.items != PAD).any(axis=1))
        targets = np.where(batch.items < self._num_seen, batch.items, PAD)[tested]
        for name, ranks in self.ranks.items():
            ranks.append(target_ranks(models[name].score(query)[tested], targets, query.items[tested]))
        self._num_events += len(batch.items)
        self._num_seen = max(self._num_seen, int(batch.items.max(initial=-1)) + 1)


def five_stars(path: Path) -> list[ReadEvent]:
    """The ratings of five stars in time order, file order on ties: those of one second are a millisecond apart."""
    events, last, place = [], 0, 0
    for user, item, stars, at in read_ml_100k_ratings(path):
        place = place + 1 if at == last else 0
        last = at
        if stars == 5:
            event = {
                "event_id": f"ml-100k-{user}-{item}",
                "type": "like",
                "user_id": str(user),
                "item_id": str(item),
                "timestamp": at + place,
            }
            events.append(ReadEvent(at + place, msgspec.json.encode(event)))
    return events


def run(trial: Trial) -> Outcome:
    """One pass over the stream, by the two stages of the running system."""
    path = trial.data / _FILE
    if not path.is_file():
        raise DataError(f"{path} is not a file (set RUNNEL_DATA or --data to where the data sets lie)")
    torch.set_num_threads(1)  # sums in one order, whatever the number of cores: the figures do not depend on it
    events = five_stars(path)
    models = build_models(trial.models, trial.seed)
    observer = Preq5Star(trial.models, round(WARM_SHARE * len(events)))
    with tempfile.TemporaryDirectory(prefix="runnel-evaluate-") as folder:
        for num_learned in Run(Path(folder), models, observer, trial.seed, BATCH_EVENTS).steps(iter(events)):
            trial.say(f"{num_learned:,} of {len(events):,} events")
    tests = {name: counted(np.concatenate(ranks), METRICS) for name, ranks in observer.ranks.items()}
    return Outcome(len(events), tests, configs_of(models))


PREQ_5STAR = Protocol(
    name="PREQ-5★",
    stream="ml-100k, 5 stars",
    metrics=METRICS,
    models=("popularity", "recent", "covisitation", "transformer", "blend"),
    references=(
        Reference("popularity", {"recall@10": 0.109}, "floor"),
        Reference("item cosine, last 5 items", {"recall@10": 0.155, "mrr@10": 0.060}, "floor"),
        Reference("ISGD, 40 factors", {"recall@10": 0.073}, "floor"),
        Reference("iMF", {"recall@10": 0.026}, "takuti/flurs"),
        Reference("iFM", {"recall@10": 0.035}, "takuti/flurs"),
    ),
    run=run,
)
