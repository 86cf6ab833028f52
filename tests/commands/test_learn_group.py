# The learn stage as a group under torchrun: ranks are killed while it learns, and every event is learned once.
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from time import monotonic

import psutil

from commands.ranks import join
from state.offsets import get_totals
from state.store import Stage, Store
from stream.log import PARTITION, EventLog
from tests.stream.helpers import NOW, value, view
from tests.stream.stage_process import finish
from tests.stream.stage_process import start as start_stage
from tests.stream.waiting import stored_offsets, wait_until

ROOT = Path(__file__).parents[2]
NUM_VALUES, NUM_EVENTS = 300, 20  # of the log; of a value
RESUME_SECONDS = 15.0


def append(home: Path, first: int, last: int) -> None:
    """Values of events, in which users view items now and again."""
    with closing(EventLog(home / "log")) as log:
        for number in range(first, last):
            at = range(number * NUM_EVENTS, (number + 1) * NUM_EVENTS)
            log.append(
                [value(*[view(f"u{event % 17}", f"i{event * event % 211}", event) for event in at])], NOW + at[0]
            )


@contextmanager
def learn_group(home: Path, num_ranks: int) -> Iterator[psutil.Process]:
    """torchrun of `runnel learn`; told to stop at the end, and none of its processes is left then."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    learn = [str(ROOT / "runnel.py"), "learn", "--home", str(home)]
    learn_settings = {"models": ["transformer"], "commit_seconds": 0.05, "stage": {"max_entries_per_step": 100}}
    environment = os.environ | {"RUNNEL_LEARN": json.dumps(learn_settings)}
    with (home / "group.log").open("wb") as log:
        process = subprocess.Popen([*launch, "--max-restarts=100", *learn], cwd=home, env=environment, stderr=log)
    try:
        yield psutil.Process(process.pid)
    finally:
        ranks = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert psutil.wait_procs(ranks, timeout=5)[1] == []


def rank_of(group: psutil.Process, rank: int) -> psutil.Process:
    return next(child for child in group.children() if child.environ()["RANK"] == str(rank))


def learned(home: Path) -> int:
    return stored_offsets(home / "learn", "learn").get(PARTITION, 0)


def totals(home: Path, stage: Stage) -> dict[tuple[str, str], int]:
    with Store(home / stage, stage) as store, store.read() as txn:
        return get_totals(txn, store)


def await_learned(home: Path, num: int) -> None:
    wait_until(lambda: learned(home) >= num)


def await_folded(home: Path, num: int) -> None:
    wait_until(lambda: stored_offsets(home / "fold", "fold").get(PARTITION, 0) >= num)


def kill(group: psutil.Process, rank: int) -> None:
    """Kill a rank, and see rank 0 end."""
    leader = rank_of(group, 0)
    rank_of(group, rank).kill()
    wait_until(lambda: not leader.is_running() or leader.status() == psutil.STATUS_ZOMBIE)


def test_killed_ranks_cost_seconds_and_each_event_is_learned_once(tmp_path: Path) -> None:
    ends = [NUM_VALUES // 3, NUM_VALUES * 2 // 3, NUM_VALUES]
    append(tmp_path, 0, 1)
    with ExitStack() as stack:
        stack.callback(finish, start_stage("fold", tmp_path, "eager"))  # many small deltas: many commits of the learner
        await_folded(tmp_path, 1)
        append(tmp_path, 1, ends[0])
        started_at = monotonic()
        group = stack.enter_context(learn_group(tmp_path, 2))
        await_learned(tmp_path, 5)
        limit = max(RESUME_SECONDS, 2 * (monotonic() - started_at))  # on a busy machine starting takes longer than that
        for rank, first, last in ((1, ends[0], ends[1]), (0, ends[1], ends[2])):
            killed_at = monotonic()
            kill(group, rank)
            before = learned(tmp_path)
            assert before < first  # it was learning
            append(tmp_path, first, first + 1)
            await_folded(tmp_path, first + 1)
            assert learned(tmp_path) == before  # folding goes on meanwhile
            append(tmp_path, first + 1, last)
            await_learned(tmp_path, before + 1)
            assert monotonic() - killed_at < limit
        await_learned(tmp_path, NUM_VALUES)
    assert totals(tmp_path, "fold") == {("view", "accepted"): NUM_VALUES * NUM_EVENTS}
    assert totals(tmp_path, "learn") == {("view", "learned"): NUM_VALUES * NUM_EVENTS}
    assert "rank 1 stops" in (tmp_path / "group.log").read_text()  # at the end, in good order


def test_without_torchrun_there_is_no_group() -> None:
    assert join() is None
