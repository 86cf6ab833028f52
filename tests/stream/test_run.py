# The stages as processes: they catch up, stop when told, trim what is learned, and refuse a second writer.
from __future__ import annotations

import shutil
from pathlib import Path
from threading import Event

import pytest

from state.deltas import DeltaLog
from state.store import Store, StoreConfigurationChanged, StoreLocked
from stream.log import PARTITION, EventLog
from stream.run import learned_version, run_fold
from stream.run_learn import TrainBudget, run_learn
from tests.stream.helpers import NOW, value, view
from tests.stream.stage_process import finish, start
from tests.stream.waiting import stored_offsets, wait_until


def append(home: Path, first: int, num_events: int) -> None:
    log = EventLog(home / "log")
    for at in range(first, first + num_events):
        log.append([value(view("u", f"i{at}", at))], NOW + at)
    log.close()


def first_delta(home: Path) -> int:
    with Store(home / "fold", "fold") as store, store.read() as txn:
        return DeltaLog(store).first(txn)


def test_both_stages_catch_up_with_the_log_and_stop_when_told(tmp_path: Path) -> None:
    append(tmp_path, 0, 100)
    stages = [start("learn", tmp_path), start("fold", tmp_path)]  # the learner waits for the fold's store
    wait_until(lambda: stored_offsets(tmp_path / "learn", "learn").get(PARTITION) == 100)
    append(tmp_path, 100, 1)
    wait_until(lambda: stored_offsets(tmp_path / "learn", "learn").get(PARTITION) == 101)
    for stage in stages:
        finish(stage)
    assert learned_version(tmp_path) > 1


def test_a_learner_without_a_fold_store_stops_when_told(tmp_path: Path) -> None:
    learner = start("learn", tmp_path)
    wait_until(lambda: (tmp_path / "learn" / "data.mdb").exists())
    finish(learner)


def test_a_learner_refuses_a_fold_store_that_it_is_ahead_of(tmp_path: Path) -> None:
    append(tmp_path, 0, 30)
    stages = [start("fold", tmp_path), start("learn", tmp_path)]
    wait_until(lambda: stored_offsets(tmp_path / "learn", "learn").get(PARTITION) == 30)
    for stage in stages:
        finish(stage)
    shutil.rmtree(tmp_path / "fold")
    Store(tmp_path / "fold", "fold", writer=True).close()
    with pytest.raises(StoreConfigurationChanged, match=r"fold is at version 0, and \d+ of it were learned"):
        run_learn(tmp_path, Event(), 0)


def test_a_second_fold_process_is_refused_and_told_who_holds_the_store(tmp_path: Path) -> None:
    append(tmp_path, 0, 1)
    folder = start("fold", tmp_path)
    wait_until(lambda: bool(stored_offsets(tmp_path / "fold", "fold")))
    with pytest.raises(StoreLocked, match=str(folder.pid)):
        run_fold(tmp_path, Event())
    finish(folder)


def test_only_what_is_learned_and_past_retention_is_trimmed(tmp_path: Path) -> None:
    append(tmp_path, 0, 20)
    folder = start("fold", tmp_path, "hasty")
    wait_until(lambda: stored_offsets(tmp_path / "fold", "fold").get(PARTITION) == 20)
    append(tmp_path, 20, 20)
    wait_until(lambda: stored_offsets(tmp_path / "fold", "fold").get(PARTITION) == 40)
    assert first_delta(tmp_path) == 1  # past retention, but nothing was learned yet
    learner = start("learn", tmp_path, "hasty")
    wait_until(lambda: stored_offsets(tmp_path / "learn", "learn").get(PARTITION) == 40)
    append(tmp_path, 40, 1)
    wait_until(lambda: stored_offsets(tmp_path / "learn", "learn").get(PARTITION) == 41)
    wait_until(lambda: first_delta(tmp_path) == learned_version(tmp_path))  # the newest stays
    finish(learner)
    finish(folder)
    log = EventLog(tmp_path / "log")
    assert log.begin_offset() == 40  # the newest record stays too: it holds offset and stamp
    log.close()


@pytest.mark.parametrize(
    ("seconds", "num_trained", "examples"),
    [(1.0, 2048, 1024), (0.5, 2048, 2560), (0.1, 100, 2048), (60.0, 300, 256), (0.55, 1100, 1000)],
)
def test_the_train_budget_follows_the_time_a_step_took(seconds: float, num_trained: int, examples: int) -> None:
    budget = TrainBudget(least=256, target_seconds=0.5)
    budget.spent(seconds, num_trained)
    assert budget.examples == examples
