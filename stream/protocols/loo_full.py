# LOO-full: each user's last item is ranked among the whole catalogue but for what the user had before.
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.base import Model
from models.rank import target_ranks
from stream.protocols.interactions import Interactions
from stream.protocols.metrics import ROWS, counted
from stream.protocols.protocol import Outcome, Protocol, Reference, Trial
from stream.protocols.training import WHOLE_SEQUENCES, Lessons, Training, trained
from stream.readers import DataError

METRICS = ("hr@10", "ndcg@10", "mrr@10")
MAX_ENTRIES = 50  # of a history learned from one example at a time
BATCH_EXAMPLES = 256  # as in `runnel evaluate` over streams
_FILE = "ml-1m/ratings_ordered.parquet"
_COLUMNS = ("user", "movie", "rating", "seq", "file_row")


class HeldOut(NamedTuple):
    """What is learned from, and of each tested user the item held out and all that stood before it."""

    train: Interactions  # less the last two of every user: one to choose settings by, one to test
    before: Interactions  # what a test's history is, and what is not ranked
    users: NDArray[np.int64]  # [Q]
    targets: NDArray[np.int64]  # [Q]


def read_held_out(data: Path, min_stars: int, place: int) -> HeldOut:
    """MovieLens 1M, ratings of at least so many stars, each user's in `seq` order, file order on ties.

    `place` 1 holds out a user's last item, 2 the one before (validation). Users with fewer than 3 ratings are learned
    from and not tested. Raises DataError naming the file that is absent.
    """
    path = data / _FILE
    if not path.is_file():
        raise DataError(f"{path} is not a file (set RUNNEL_DATA or --data to where the data sets lie)")
    table = pq.read_table(path, columns=list(_COLUMNS))
    user, movie, stars, seq, file_row = (table[name].to_numpy().astype(np.int64) for name in _COLUMNS)
    kept = np.lexsort((file_row, seq, user))
    kept = kept[stars[kept] >= min_stars]
    users, items = (np.unique(column[kept], return_inverse=True)[1] for column in (user, movie))
    num_users, num_items = int(users.max()) + 1, int(items.max()) + 1
    counts = np.bincount(users)
    left = np.cumsum(counts)[users] - np.arange(len(users))  # 1 for a user's last
    is_tested = counts[users] >= 3

    def less_last(num: int) -> Interactions:
        chosen = (left > num) | ~is_tested
        return Interactions(users[chosen], items[chosen], num_users, num_items)

    held = (left == place) & is_tested
    return HeldOut(less_last(2), less_last(place), users[held], items[held])


def ranks_in_all(model: Model, held: HeldOut) -> NDArray[np.float64]:
    """[Q] rank of each target, from 1, among all items but those before it; infinite for one never learned."""
    found = []
    longest = int(np.diff(held.before.starts).max())
    for start in range(0, len(held.users), ROWS):
        rows = slice(start, start + ROWS)
        query = held.before.queries(held.users[rows], longest)  # whole histories: a model reads as much as it does
        found.append(target_ranks(model.score(query), held.targets[rows], query.items))
    return np.concatenate(found)


def measured(held: HeldOut, trainings: Mapping[str, Training], trial: Trial) -> Outcome:
    """Train on what is not held out, and rank what is."""
    models, config = trained(
        trial.models,
        trainings,
        trial.seed,
        Lessons(held.train, BATCH_EXAMPLES, MAX_ENTRIES),
        trial.say,
    )
    tests = {name: counted(ranks_in_all(models[name], held), METRICS) for name in trial.models}
    return Outcome(len(held.train.items), tests, config)


_TRAININGS = {
    "item2vec": Training(epochs=4),
    "ai2v": Training(epochs=2),
    "transformer": WHOLE_SEQUENCES,
}
_OURS = ("popularity", "item2vec", "ai2v", "transformer")


def _figures(hit_rate: float, gain: float) -> dict[str, float]:
    return {"hr@10": hit_rate, "ndcg@10": gain}


LOO_FULL = Protocol(
    name="LOO-full",
    stream="ml-1m",
    metrics=METRICS,
    models=_OURS,
    references=(
        Reference("popularity", _figures(0.0392, 0.0193), "floor"),
        Reference("EASE", _figures(0.1079, 0.0542), "floor"),
        Reference("count Markov, last 10 items", _figures(0.2430, 0.1382), "floor"),
        Reference("SASRec, BCE with 1 negative", _figures(0.2500, 0.1341), "antklen/sasrec-bert4rec-recsys23"),
        Reference("SASRec, cross-entropy", _figures(0.3152, 0.1821), "antklen/sasrec-bert4rec-recsys23"),
        Reference("HSTU-large", _figures(0.3294, 0.1893), "meta-recsys/generative-recommenders"),
    ),
    run=lambda trial: measured(read_held_out(trial.data, 1, 1), _TRAININGS, trial),
)
LOO_FULL_LIKED = Protocol(
    name="LOO-full, liked only",
    stream="ml-1m, 4 stars and more",
    metrics=METRICS,
    models=_OURS,
    references=(
        Reference("NCF", {"hr@10": 0.01999, "mrr@10": 0.00478}, "Barkan et al. 2020, threshold not stated"),
        Reference("I2V", {"hr@10": 0.02705, "mrr@10": 0.00587}, "Barkan et al. 2020, threshold not stated"),
        Reference("AI2V", {"hr@10": 0.02806, "mrr@10": 0.00739}, "Barkan et al. 2020, threshold not stated"),
    ),
    run=lambda trial: measured(read_held_out(trial.data, 4, 1), _TRAININGS, trial),
)
LOO_FULL_VALIDATION = Protocol(
    name="LOO-full, validation",
    stream="ml-1m",
    metrics=METRICS,
    models=_OURS,
    references=(),
    run=lambda trial: measured(read_held_out(trial.data, 1, 2), _TRAININGS, trial),
)
