# Slots: what processes count outlives them, what their gauges tell does not, and the folder is a cache.
from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from state.slots import read_slots
from tests.state.slot_process import SlotProcess

Start = Callable[[str], SlotProcess]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "metrics"


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    started: list[SlotProcess] = []

    def start(process: str) -> SlotProcess:
        started.append(SlotProcess(folder, process))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def told(folder: Path, sample: str, **labels: str) -> float | None:
    """The value of one sample, None where it is not told."""
    found = [
        one.value
        for metric in read_slots(folder)
        for one in metric.samples
        if one.name == sample and one.labels == labels
    ]
    assert len(found) <= 1
    return found[0] if found else None


def test_whoever_has_the_slot_next_goes_on_counting(folder: Path, start: Start) -> None:
    first = start("fold")
    first.tell("count 5")
    first.kill()
    second = start("fold")
    second.tell("count 2")
    assert first.name == second.name == "fold-0"
    assert told(folder, "work_total", kind="any") == 7.0
    assert told(folder, "work_seconds_count") == 2.0
    assert told(folder, "work_seconds_bucket", le="10.0") == 2.0
    assert told(folder, "runnel_process_starts_total", process="fold-0") == 2.0


def test_processes_that_live_at_once_have_slots_of_their_own_the_lowest_free_one(folder: Path, start: Start) -> None:
    first, second = start("serve"), start("serve")
    assert (first.name, second.name) == ("serve-0", "serve-1")
    first.tell("count 1")
    second.tell("count 2")
    assert told(folder, "work_total", kind="any") == 3.0
    first.kill()
    assert start("serve").name == "serve-0"
    assert told(folder, "work_total", kind="any") == 3.0


def test_gauges_are_told_by_process_and_those_of_the_dead_are_not_told(folder: Path, start: Start) -> None:
    first, second = start("serve"), start("serve")
    first.tell("set 1")
    second.tell("set 2")
    assert told(folder, "level", process="serve-0") == 1.0
    assert told(folder, "level", process="serve-1") == 2.0
    assert told(folder, "newest") == 2.0
    second.kill()
    assert told(folder, "level", process="serve-1") is None
    assert told(folder, "newest") == 1.0
    start("serve")
    assert told(folder, "level", process="serve-1") == 0.0  # its own, not that of the dead one


def test_a_folder_that_is_deleted_is_made_again_and_counts_begin_anew(folder: Path, start: Start) -> None:
    process = start("fold")
    process.tell("count 5")
    shutil.rmtree(folder)
    process.tell("count 1")  # nobody hears of it, and nothing breaks
    assert read_slots(folder) == []
    process.tell("keep")
    process.tell("count 3")
    process.tell("set 4")
    assert told(folder, "work_total", kind="any") == 3.0
    assert told(folder, "level", process="fold-0") == 4.0
    process.tell("keep")
    assert told(folder, "work_total", kind="any") == 3.0
    other = start("fold")
    assert other.name == "fold-1"  # it holds its name again


@pytest.mark.parametrize("size", [0, 3, 40])
def test_a_file_that_is_cut_short_hides_nothing_else_and_goes_with_the_next_holder(
    folder: Path, start: Start, size: int
) -> None:
    first, second = start("fold"), start("learn")
    first.tell("count 5")
    second.tell("count 2")
    first.kill()
    damaged = folder / "counter_fold-0.db"
    damaged.write_bytes(damaged.read_bytes()[:size])
    assert told(folder, "work_total", kind="any") == 2.0
    start("fold").tell("count 1")
    assert told(folder, "work_total", kind="any") == 3.0
