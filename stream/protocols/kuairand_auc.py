# kuairand-auc: of what was shown, which videos were watched long; each scored before it is learned.
from __future__ import annotations

import csv
import gzip
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from models.base import Batch, Model
from models.configured import config_of
from stream.evaluate import Run
from stream.protocols.by_user import auc, auc_within
from stream.protocols.protocol import Outcome, Protocol, Reference, Trial
from stream.protocols.without_skips import SUFFIX, build_pairs
from stream.readers import DataError, ReadEvent

METRICS = ("auc", "gain", "gauc", "gauc gain")
BATCH_EVENTS = 16  # the stream is short, as in PREQ-5★
WARM_SHARE = 0.2  # of the stream is learned and not tested
_FILE = "kuairand-cut/log.tsv.gz"
_COLUMNS = ("user_id", "video_id", "time_ms", "long_view", "play_time_ms", "duration_ms")


class Shown:
    """The score of every row's own item, by every model as it stands before the row is learned."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.scores: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
        self.wanted: list[NDArray[np.bool_]] = []
        self.users: list[bytes] = []

    def observe(self, batch: Batch, models: Mapping[str, Model]) -> None:
        """To be called before the batch is learned."""
        assert batch.query.users is not None
        self.wanted.append(batch.labels > 0)
        self.users += batch.query.users.tolist()
        for name, scores in self.scores.items():
            scores.append(models[name].score(batch.query, batch.items[:, None])[:, 0])

    def figures(self, num_warm: int) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Model → metric → [users], of the rows behind the first `num_warm`."""
        names, users = np.unique(np.array(self.users[num_warm:], object), return_inverse=True)
        wanted = np.concatenate(self.wanted)[num_warm:]
        found = {}
        for name, parts in self.scores.items():
            scores = np.nan_to_num(np.concatenate(parts)[num_warm:].astype(np.float64), nan=-np.inf)
            found[name] = {
                metric: of(scores, wanted, users, len(names)) for metric, of in (("auc", auc), ("gauc", auc_within))
            }
        for name, of in found.items():
            other = found[name.removesuffix(SUFFIX) + SUFFIX]
            of["gain"], of["gauc gain"] = of["auc"] - other["auc"], of["gauc"] - other["gauc"]
        return found


def shown_videos(path: Path) -> list[ReadEvent]:
    """The rows in time order, file order on ties: a long view is a view, all else a skip; dwell is the time played.

    Raises DataError naming the file.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file (set RUNNEL_DATA or --data to where the data sets lie)")
    try:
        with gzip.open(path, "rt", newline="") as file:
            rows = [[int(row[column]) for column in _COLUMNS] for row in csv.DictReader(file, delimiter="\t")]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: no whole number in {', '.join(_COLUMNS)}: {error}") from error
    events = []
    for place, (user, video, at, is_long, played_ms, duration_ms) in enumerate(rows):
        event = {
            "event_id": f"kuairand-{place}",
            "type": "view" if is_long else "skip",
            "user_id": str(user),
            "item_id": str(video),
            "timestamp": at,
            "dwell_ms": played_ms,
            "duration_ms": duration_ms,
        }
        events.append(ReadEvent(at, msgspec.json.encode(event)))
    return sorted(events, key=lambda event: event.timestamp)


def run(trial: Trial) -> Outcome:
    """One pass, by the two stages of the running system; the models with and without skips learn side by side."""
    torch.set_num_threads(1)  # sums in one order, whatever the number of cores: the figures do not depend on it
    events, models = shown_videos(trial.data / _FILE), build_pairs(trial.models, trial.seed)
    observer = Shown(tuple(name + suffix for name in trial.models for suffix in ("", SUFFIX)))
    with tempfile.TemporaryDirectory(prefix="runnel-evaluate-") as folder:
        evaluation = Run(Path(folder), models, observer, trial.seed, BATCH_EVENTS)
        for num_learned in evaluation.steps(iter(events)):
            trial.say(f"{num_learned:,} of {len(events):,} rows")
    if evaluation.num_rejected:
        trial.say(f"{evaluation.num_rejected:,} rows broke a rule of the schema and were left out")
    config = {name: config_of(model) for name, model in models.items() if not name.endswith(SUFFIX)}
    return Outcome(evaluation.num_events, observer.figures(round(WARM_SHARE * len(observer.users))), config)


KUAIRAND_AUC = Protocol(
    name="KuaiRand, AUC of long_view",
    stream="kuairand-cut",
    metrics=METRICS,
    models=("popularity", "covisitation", "item2vec", "ai2v", "conet", "transformer", "blend"),
    references=(Reference("the same without skips", {"gain": 0.0, "gauc gain": 0.0}, "floor"),),
    run=run,
)
