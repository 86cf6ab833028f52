# CN-99 and NCF-99: one held-out item of each user is ranked among 99 drawn ones, which a file names.
from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.protocols.interactions import Interactions
from stream.protocols.metrics import ROWS, counted, ranks_among
from stream.protocols.protocol import Outcome, Protocol, Reference, Trial
from stream.protocols.training import WHOLE_SEQUENCES, Lessons, Training, trained
from stream.readers import DataError

METRICS = ("hr@10", "ndcg@10")
MAX_ENTRIES = 50  # of a history, as in serving
BATCH_EXAMPLES = 1024


class Sampled(NamedTuple):
    """What is learned from, and per test a user and its candidates, the held-out item first."""

    train: Interactions
    users: NDArray[np.int64]  # [Q]
    candidates: NDArray[np.int64]  # [Q, M]


class Files(NamedTuple):
    """Where a split of the NCF format lies: `user item …` lines, and `(user,item) negative …` lines for the tests."""

    train: str
    negatives: str
    order_column: int | None  # of the train file: the place of an interaction in its user's order


def read_sampled(data: Path, files: Files) -> Sampled:
    """Read a split. Raises DataError naming the file that is absent or of another format."""
    rows = _table(data / files.train)
    tests = [_test_of(data / files.negatives, line) for line in _lines(data / files.negatives)]
    users = np.array([user for user, _ in tests], np.int64)
    try:
        candidates = np.array([items for _, items in tests], np.int64)
    except ValueError as error:
        raise DataError(f"{data / files.negatives}: its lines name unequal numbers of items") from error
    num_users = 1 + max(int(rows[:, 0].max()), int(users.max()))
    num_items = 1 + max(int(rows[:, 1].max()), int(candidates.max()))
    places = np.arange(len(rows)) if files.order_column is None else rows[:, files.order_column]
    order = np.lexsort((places, rows[:, 0]))
    is_ordered = files.order_column is not None
    train = Interactions(rows[order, 0], rows[order, 1], num_users, num_items, is_ordered)
    return Sampled(train, users, candidates)


def measured(split: Sampled, trainings: dict[str, Training], trial: Trial) -> Outcome:
    """Train on the split's interactions and rank its candidates."""
    models, config = trained(
        trial.models,
        trainings,
        trial.seed,
        Lessons(split.train, BATCH_EXAMPLES, MAX_ENTRIES, is_stream=split.train.is_ordered),
        trial.say,
    )
    ranks: dict[str, list[NDArray[np.float64]]] = {name: [] for name in trial.models}
    for start in range(0, len(split.users), ROWS):
        rows = slice(start, start + ROWS)
        query = split.train.queries(split.users[rows], MAX_ENTRIES)
        for name, found in ranks.items():
            found.append(ranks_among(models[name], query, split.candidates[rows]))
    tests = {name: counted(np.concatenate(found), METRICS) for name, found in ranks.items()}
    return Outcome(len(split.train.items), tests, config)


def _lines(path: Path) -> Iterator[bytes]:
    if not path.is_file():
        raise DataError(f"{path} is not a file (set RUNNEL_DATA or --data to where the data sets lie)")
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        yield from (line for line in file if line.strip())


def _table(path: Path) -> NDArray[np.int64]:
    try:
        return np.loadtxt(_lines(path), np.float64, ndmin=2).astype(np.int64)
    except ValueError as error:
        raise DataError(f"{path} is not a table of numbers: {error}") from error


def _test_of(path: Path, line: bytes) -> tuple[int, list[int]]:
    pair, *negatives = line.split()
    try:
        user, item = map(int, pair.strip(b"()").split(b","))
        return user, [item, *map(int, negatives)]
    except ValueError as error:
        raise DataError(f"{path}: {line[:40]!r} is not `(user,item) item …`") from error


_CN_FILES = Files("conet-ml-100k/100k.train.rating.gz", "conet-ml-100k/100k.test.negative.gz", None)
_NCF_FILES = Files("ncf-ml-1m/ml-1m.train.rating.rebuilt.gz", "ncf-ml-1m/ml-1m.test.negative.gz", 3)
# Chosen on interactions held out from the training files. All items at one time, so negatives are drawn from all.
_STATIC = {"num_recent": 0, "num_uniform": 256, "max_step": BATCH_EXAMPLES}
_CN_TRAININGS = {"conet": Training(12, _STATIC)}
_NCF_TRAININGS = {"conet": Training(3, {**_STATIC, "width": 128}), "transformer": WHOLE_SEQUENCES}


def _figures(hit_rate: float, gain: float) -> dict[str, float]:
    return {"hr@10": hit_rate, "ndcg@10": gain}


CN_99 = Protocol(
    name="CN-99",
    stream="conet-ml-100k",
    metrics=METRICS,
    models=("popularity", "covisitation", "conet"),
    references=(
        Reference("popularity", _figures(0.494, 0.276), "floor"),
        Reference("EASE, best of three on the test", _figures(0.7179, 0.4382), "floor"),
        Reference("CoNet", _figures(0.7116, 0.4213), "the authors' TensorFlow notebook, epoch chosen on the test"),
    ),
    run=lambda trial: measured(read_sampled(trial.data, _CN_FILES), _CN_TRAININGS, trial),
)
NCF_99 = Protocol(
    name="NCF-99",
    stream="ncf-ml-1m",
    metrics=METRICS,
    models=("popularity", "conet", "transformer", "blend"),
    references=(
        Reference("popularity", _figures(0.4538, 0.2545), "floor"),
        Reference("EASE", _figures(0.7192, 0.4494), "floor"),
        Reference("NeuMF", _figures(0.730, 0.447), "He et al. 2017"),
        Reference("MF by SGD, d = 192", _figures(0.7294, 0.4523), "Rendle et al. 2020"),
        Reference("iALS, d = 192", _figures(0.7310, 0.4521), "irspack"),
    ),
    run=lambda trial: measured(read_sampled(trial.data, _NCF_FILES), _NCF_TRAININGS, trial),
)
