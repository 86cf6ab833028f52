# What log and stores tell at a scrape: exact counts, and how far behind a stage is, whether it runs or not.
from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.registry import MODELS, build_models
from serving.home_metrics import HomeMetrics
from serving.metrics import ServingMetrics
from state.view import View
from stream.guard import hold
from tests.serving.helpers import Loop, open_loop, view


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    with open_loop(tmp_path) as loop:
        yield loop


def facts_of(loop: Loop, home: Path) -> HomeMetrics:
    view_of_both = View(loop.fold_store, loop.learn_store, lambda _: build_models(MODELS, 1))
    view_of_both.refresh()
    return HomeMetrics(home, view_of_both, loop.log, loop.clock)


def told(facts: HomeMetrics, name: str, **labels: str) -> float | None:
    """One sample's value, None where it is not told."""
    samples = [sample for metric in facts.collect() for sample in metric.samples]
    found = [sample.value for sample in samples if sample.name == name and sample.labels == labels]
    return found[0] if found else None


def test_a_stage_that_stands_still_falls_behind_in_messages_and_in_time(loop: Loop, tmp_path: Path) -> None:
    loop.send(view("u", "a"))
    loop.settle()
    facts = facts_of(loop, tmp_path)
    for stage in ("fold", "learn"):
        assert told(facts, "runnel_stage_lag_messages", stage=stage) == 0
        assert told(facts, "runnel_stage_lag_events", stage=stage) == 0
        assert told(facts, "runnel_stage_lag_seconds", stage=stage) == 0
    loop.send(view("u", "b", 1))
    loop.fold.step()
    loop.clock.now += 7_000
    loop.send(view("u", "c", 2))
    loop.clock.now += 5_000
    assert told(facts, "runnel_stage_lag_messages", stage="fold") == 1
    assert told(facts, "runnel_stage_lag_seconds", stage="fold") == 5
    assert told(facts, "runnel_stage_lag_messages", stage="learn") == 2
    assert told(facts, "runnel_stage_lag_events", stage="learn") == 2
    assert told(facts, "runnel_stage_lag_seconds", stage="learn") == 12  # the oldest of them
    assert told(facts, "runnel_stage_version", stage="fold") == 2
    assert told(facts, "runnel_stage_version", stage="learn") == 1


def test_lag_in_events_counts_as_many_to_a_message_as_there_have_been(loop: Loop, tmp_path: Path) -> None:
    loop.send(*(view("u", f"i{number}", number) for number in range(30)))
    loop.settle()
    loop.send(view("u", "last", 50))
    assert told(facts_of(loop, tmp_path), "runnel_stage_lag_events", stage="fold") == 30


def test_a_held_model_is_told_and_no_other(loop: Loop, tmp_path: Path) -> None:
    loop.send(view("u", "a"))
    loop.settle()
    hold(loop.learn_store, {"transformer": "for the test"}, loop.clock.now)
    facts = facts_of(loop, tmp_path)
    assert told(facts, "runnel_model_held", model="transformer") == 1
    assert told(facts, "runnel_model_held", model="blend") == 0


def test_events_are_counted_by_type_and_outcome_as_the_stores_have_them(loop: Loop, tmp_path: Path) -> None:
    loop.log.append([b"no event", b'{"type": "wink"}'], loop.clock.now)
    loop.send(view("u", "a", dwell_ms=5000), view("u", "b", 1, dwell_ms=10))
    loop.settle()
    facts = facts_of(loop, tmp_path)
    assert told(facts, "runnel_events_total", type="view", outcome="accepted") == 2
    assert told(facts, "runnel_events_total", type="invalid", outcome="rejected") == 2
    assert told(facts, "runnel_events_learned_total", type="view") == 1
    assert told(facts, "runnel_events_learned_total", type="skip") == 1  # a view of 10 ms
    assert told(facts, "runnel_examples_sampled_out_total") == 0
    assert told(facts, "runnel_model_rows", model="popularity", table="counts") == 1  # nobody took the other
    assert told(facts, "runnel_log_messages") == 3


def test_what_is_not_there_yet_is_not_told_and_hides_nothing_else(tmp_path: Path) -> None:
    with open_loop(tmp_path / "other") as loop:
        nothing = View(tmp_path / "fold", tmp_path / "learn", lambda _: build_models(MODELS, 1))
        facts = HomeMetrics(tmp_path, nothing, loop.log, loop.clock)
        assert told(facts, "runnel_stage_lag_messages", stage="fold") is None
        assert told(facts, "runnel_log_messages") == 0
        assert told(facts, "runnel_disk_free_bytes")


def test_a_replica_tells_how_long_the_oldest_event_of_a_version_took_to_reach_it(loop: Loop, tmp_path: Path) -> None:
    view_of_both = View(loop.fold_store, loop.learn_store, lambda _: build_models(MODELS, 1))
    metrics = ServingMetrics(facts=HomeMetrics(tmp_path, view_of_both, loop.log, loop.clock))
    for seconds in (100, 3, 0):
        loop.send(view("u", "a", seconds))
        loop.clock.now += 1_000 * seconds
        loop.send(view("u", "b", seconds + 1))
        loop.settle()
        view_of_both.refresh()
        with view_of_both.read() as home:
            metrics.took_over(home)
            metrics.took_over(home)  # nothing new
    lines = metrics.exposition().decode().splitlines()
    fresh = [line for line in lines if line.startswith("runnel_event_to_recommendation_seconds")]
    assert 'runnel_event_to_recommendation_seconds_count{path="model"} 2.0' in fresh  # the first one is no measure
    assert 'runnel_event_to_recommendation_seconds_sum{path="model"} 3.0' in fresh
    view_of_both.close()


_DELETED = """
import shutil, sys
from pathlib import Path
from serving.metrics import ServingMetrics
from state.home import Home
from state.slots import Slot
folder, home = Path(sys.argv[1]), Home(lambda _: {}, {})
metrics = ServingMetrics(Slot(folder, "serve"))
home.version, home.event_time = 3, 5000
metrics.took_over(home)
shutil.rmtree(folder)
print(metrics.exposition().decode())
"""


def test_a_replica_tells_its_version_again_where_the_metrics_were_deleted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _DELETED, str(tmp_path / "metrics")]  # a slot is for a process's whole life
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert 'runnel_model_version{process="serve-0"} 3.0' in lines
    assert 'runnel_model_event_time_seconds{process="serve-0"} 5.0' in lines
