# A warm start: a file of past events is learned once, however often it is tried, and the log goes on from it.
from __future__ import annotations

from contextlib import closing
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import pytest

from state.dump import dump
from state.follower import StoreSource
from state.store import Store, StoreLocked
from stream.fold import FoldConfig, FoldStage
from stream.learn import LearnConfig, LearnStage
from stream.log import EventLog, LogSource
from stream.prequential import PrequentialConfig
from stream.readers import DataError
from stream.rebuild import open_models
from stream.run import FOLD_NAME, FoldRunConfig
from stream.run_learn import LearnRunConfig
from stream.warm_start import WarmStart, warm_start
from tests.stream.helpers import NOW, JsonEvent, value, view

FOLD = FoldRunConfig(stage=FoldConfig(max_events=512))
STAGE = LearnConfig(prequential=PrequentialConfig(rows_per_batch=0))
LEARN = LearnRunConfig(models=("popularity", "covisitation"), stage=STAGE)
EVENTS: list[JsonEvent] = [view(f"u{at % 40}", f"i{at * 7 % 23}", at, event_id=f"e{at}") for at in range(3000)]


def history(path: Path, events: list[JsonEvent]) -> Path:
    path.write_bytes(b"\n".join(map(msgspec.json.encode, events)) + b"\n")
    return path


def learn_all(home: Path, file: Path, most: int = 1000) -> list[WarmStart]:
    """At most so many commits of it."""
    return list(islice(warm_start(home, file, FOLD, LEARN, 0, lambda: False), most))


def content(home: Path) -> dict[str, dict[str, bytes]]:
    found = {}
    for stage in ("fold", "learn"):
        with Store(home / stage) as store:
            found[stage] = dump(store)
    return found


def test_all_of_a_file_is_learned_once_wherever_it_was_stopped(tmp_path: Path) -> None:
    file = history(tmp_path / "past.jsonl", [*EVENTS, {"type": "view", "timestamp": NOW}, *EVENTS[:10]])
    whole = learn_all(tmp_path / "one", file)[-1]
    assert (whole.num_read, whole.num_rejected, whole.num_learned) == (3011, 1, 3000)
    for _ in range(2):
        assert learn_all(tmp_path / "two", file, most=2)[-1].num_learned == 1024
    assert learn_all(tmp_path / "two", file)[-1].num_read == 3011 - 2048
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert learn_all(tmp_path / "two", file) == []
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_the_log_goes_on_from_it_and_what_it_repeats_counts_once(tmp_path: Path) -> None:
    learn_all(tmp_path, history(tmp_path / "past.jsonl", EVENTS[:2000]))
    with closing(EventLog(tmp_path / "log")) as log:
        log.append([value(*EVENTS[1900:])], NOW)
        with Store(tmp_path / "fold", "fold", True) as folded, Store(tmp_path / "learn", "learn", True) as learned:
            assert FoldStage(folded, LogSource(log)).step().num_events == 1100
            folds = {FOLD_NAME: StoreSource(folded)}
            models = open_models(learned, LEARN.models, 0, {})
            stage = LearnStage(learned, folds, models, np.random.default_rng(0), config=STAGE)
            assert stage.step(NOW).num_examples == 1000
    learn_all(tmp_path / "whole", history(tmp_path / "all.jsonl", EVENTS))
    counts = [
        {name: part for name, part in content(home)["learn"].items() if ":" in name}
        for home in (tmp_path, tmp_path / "whole")
    ]
    assert counts[0].keys() == counts[1].keys()
    assert counts[0]["cells:covisitation/cells"] == counts[1]["cells:covisitation/cells"]


def test_a_line_that_is_no_event_is_named_and_a_home_that_runs_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(msgspec.json.encode(EVENTS[0]) + b"\nnothing\n")
    with pytest.raises(DataError, match=r"bad\.jsonl, line 2"):
        learn_all(tmp_path / "home", file)
    with Store(tmp_path / "home" / "fold", "fold", True), pytest.raises(StoreLocked):
        learn_all(tmp_path / "home", file)
