# A flood of new ids: do tables and memory stay within their bounds, and do regular users notice?
"""Run as `python -m benchmarks.id_flood [--json FILE]`; a few minutes, one process, no network.

Regular users click regular items at 500 events a second of event time; in the flood minute a million events of new ids
come beside them, each id once, or three times, which is enough to be admitted. The two stages run over real stores as
the processes run them, as fast as they can; the rows are of the phases before, in and after. Clicks of one topic follow
each other, so that a model has something to know.

What was learned: seen once, an id costs the learner a hash and a counter. Seen three times it has rows for a
while, until a sixteenth of the items, the longest unused, goes at once; regular items are used all the time and stay.
The room that this makes must not be taken at first sight, or every expiry lets a sixteenth of a flood in: of 45,000 ids
seen once, 8,700 more than there is room for had been learned. The dictionaries are what grows: the fold stage numbers
every id it hears of.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import process_time

import numpy as np
import torch

from benchmarks.report import Row, conditions, report
from models.base import Model
from models.registry import MODELS, build_models
from models.tables import RowTable
from state.dictionary import Dictionary
from state.follower import StoreSource
from state.store import Store
from stream.admission import AdmissionConfig
from stream.fold import FoldConfig, FoldStage
from stream.learn import LearnConfig, LearnStage
from stream.source import IterableSource

NOW = 1_763_649_000_000
MAX_ITEMS = 20_000
REGULAR_ITEMS = 10_000
REGULAR_PER_SECOND = 500
MAX_TRAINED = 512  # of a step's examples, as a learner that lags trains on a sample
BATCH = 200


def events(rng: np.random.Generator, second: int, new_ids: list[str]) -> Iterator[tuple[int, bytes]]:
    """A second's events as stamped values of the log: regular clicks, and one of each new id by strangers."""
    users = rng.integers(2000, size=REGULAR_PER_SECOND)
    of_topic = REGULAR_ITEMS // 100
    items = (users + second // 20) % 100 * of_topic + (of_topic * rng.random(REGULAR_PER_SECOND) ** 3).astype(int)
    clicks = [(f"u{user}", f"i{item}") for user, item in zip(users.tolist(), items.tolist(), strict=True)]
    strangers = rng.integers(1000, size=len(new_ids)).tolist()
    clicks += [(f"s{stranger}", item) for stranger, item in zip(strangers, new_ids, strict=True)]
    at, order = NOW + 1000 * second, rng.permutation(len(clicks)).tolist()
    for start in range(0, len(order), BATCH):
        found = [
            {"type": "click", "user_id": clicks[place][0], "item_id": clicks[place][1], "timestamp": at + n}
            for n, place in enumerate(order[start : start + BATCH])
        ]
        yield at, json.dumps(found).encode()


def run(sightings: int, num_events: int, seconds: int, folder: Path) -> Iterator[tuple[str, Row]]:
    """The three phases with a flood of so many events of ids seen so often each: name, figures."""
    rng = np.random.default_rng(0)
    config = LearnConfig(admission=AdmissionConfig(max_items=MAX_ITEMS))
    with (
        Store(folder / "fold", "fold", writer=True) as folded,
        Store(folder / "learn", "learn", writer=True) as learned,
    ):
        folds = {"fold-0": StoreSource(folded)}
        stage = LearnStage(learned, folds, build_models(MODELS), np.random.default_rng(0), config=config)
        for number, phase in enumerate(("before", "flood", "after")):
            per_second = num_events // seconds if phase == "flood" else 0
            values = _values(rng, range(number * seconds, (number + 1) * seconds), per_second, sightings)
            fold = FoldStage(folded, IterableSource(values, phase), config=FoldConfig(max_events=5000))
            cpu = process_time()
            while fold.step().num_messages:
                while stage.step(NOW, MAX_TRAINED).num_deltas:
                    pass
            cost = (process_time() - cpu) / (seconds * (REGULAR_PER_SECOND + per_second))
            yield f"{phase}, {sightings} an id", {"CPU us/event": 1e6 * cost, **_figures(stage, learned, folded)}


def _values(rng: np.random.Generator, seconds: range, per_second: int, sightings: int) -> Iterator[tuple[int, bytes]]:
    for second in seconds:
        first = (second - seconds.start) * per_second
        yield from events(rng, second, [f"new{place // sightings}" for place in range(first, first + per_second)])


def _figures(stage: LearnStage, learned: Store, folded: Store) -> Row:
    return {
        "rows at most": max(_num_rows(stage.models).values()),
        "anonymous MiB": _anonymous_kib() / 1024,
        "ids, fold": len(Dictionary(folded)),
        "ids, learn": len(Dictionary(learned)),
        "hit rate": stage.prequential.hit_rates()["blend"],
    }


def _anonymous_kib() -> int:
    """Memory of this process without the pages of the stores' maps."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def _num_rows(models: Mapping[str, Model]) -> dict[str, int]:
    tables = {f"{name}/{key}": table for name, model in models.items() for key, table in model.tables.items()}
    return {
        name: int(table.present.sum()) if isinstance(table, RowTable) else len(table.rows)
        for name, table in tables.items()
    }


def main() -> None:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(description="A flood of new ids beside regular traffic.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--events", type=int, default=1_000_000, help="of new ids, in the flood")
    parser.add_argument("--seconds", type=int, default=60, help="of event time, each phase")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Row] = {}
    for sightings in (1, 3):
        with tempfile.TemporaryDirectory(prefix="runnel-id-flood-") as folder:
            results |= dict(run(sightings, arguments.events, arguments.seconds, Path(folder)))
    about = conditions(
        max_items=MAX_ITEMS, regular_items=REGULAR_ITEMS, max_trained=MAX_TRAINED, events=arguments.events
    )
    report("id_flood", about, results, {"rows at most": MAX_ITEMS}, arguments.json)


if __name__ == "__main__":
    main()
