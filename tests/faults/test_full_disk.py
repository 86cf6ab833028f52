# A disk that takes nothing more: stages stand still and say why, lists go on, and all resumes by itself.
from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest

from state.lock import is_written
from state.records import read_record
from state.store import Stage, Store
from stream.log import PARTITION, EventLog
from stream.run import FoldRunConfig, run_fold
from tests.faults.disks import Disk, disk, full_disk
from tests.serving.helpers import item, open_loop, problem
from tests.serving.helpers import view as served_view
from tests.stream.helpers import NOW, fold_dump, value, view
from tests.stream.stage_process import finish, start
from tests.stream.waiting import stored_offsets, wait_until

__all__ = ["disk"]  # the fixture
METRICS = """
import pathlib, sys
from state.slots import Slot
slot = Slot(pathlib.Path(sys.argv[1]), "fold")
from prometheus_client import Counter, Gauge, Histogram
counter, histogram = (kind("n", "of a test", ["label"], registry=None) for kind in (Counter, Histogram))
gauge = Gauge("g", "of a test", ["label"], registry=None, multiprocess_mode="mostrecent")
print("ready", flush=True)
sys.stdin.read()
for number in range(300):
    counter.labels(f"label {number}").inc()
    gauge.labels(f"label {number}").set(1)
histogram.labels("one").observe(1)
print(sum(len(metric.samples) for metric in slot.read() if metric.name == "g"), "values")
"""
USERS = [f"user-{number}" for number in range(40)]


def append(home: Path, start_at: int, num_events: int) -> None:
    log = EventLog(home / "log")
    for at in range(start_at, start_at + num_events, 100):
        log.append([value(*(view(USERS[n % 40], f"item-{n % 50}", n) for n in range(at, at + 100)))], NOW + at)
    log.close()


def kill(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


@pytest.mark.parametrize("stage", ["fold", "learn"])
def test_a_stage_stands_still_while_the_disk_takes_nothing_and_then_goes_on(
    tmp_path: Path, disk: Disk, stage: Stage
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (disk.path / stage).mkdir()
    (home / stage).symlink_to(disk.path / stage)
    append(home, 0, 200)
    stages = {name: start(name, home, stderr=subprocess.PIPE) for name in ("fold", "learn")}
    pid, told = stages[stage].pid, stages[stage].stderr
    try:
        wait_until(lambda: stored_offsets(home / "learn", "learn").get(PARTITION) == 2)
        disk.stop_taking(pid, disk.path / stage / "data.mdb")
        append(home, 200, 4000)
        wait_until(lambda: not is_written(home / stage))
        before = stored_offsets(home / stage, stage)  # who reads goes on
        assert 2 <= before[PARTITION] < 42
        with Store(home / "fold") as store, store.read() as txn:
            assert len(read_record(txn, store, b"user-0").sequence.rows) >= 5
        assert [process.poll() for process in stages.values()] == [None, None]
        disk.take_again(pid)
        wait_until(lambda: stored_offsets(home / "learn", "learn").get(PARTITION) == 42)
        for process in stages.values():
            finish(process)
        assert told is not None
        said = [line for line in told.read().decode().splitlines() if "stands still" in line]
    finally:
        kill(*stages.values())
    assert 0 < len(said) < 30  # it waits longer each time
    assert f"store {home / stage} could not be written" in said[0]
    append(tmp_path / "calm", 0, 200)
    append(tmp_path / "calm", 200, 4000)
    folder = start("fold", tmp_path / "calm")
    wait_until(lambda: stored_offsets(tmp_path / "calm" / "fold", "fold").get(PARTITION) == 42)
    finish(folder)
    assert fold_dump(home / "fold", USERS) == fold_dump(tmp_path / "calm" / "fold", USERS)


def test_events_get_503_while_the_log_cannot_be_written_and_lists_go_on(disk: Disk) -> None:
    with open_loop(disk.path / "home") as loop:
        loop.client.request("PUT", "/v1/items", {"items": [item(f"i{number}") for number in range(10)]})
        loop.send(*(served_view("u", f"i{number}", number) for number in range(3)))
        loop.settle()
        before = loop.client.items("u")
        many = [served_view("u", "i1", number, session_id="s" * 200, event_id=f"e{number}") for number in range(2000)]
        disk.stop_taking(loop.sink.writer_pid, disk.path / "home" / "log" / "data.mdb")
        try:
            refused = loop.send(*many)
            assert loop.client.items("u") == before
            assert loop.client.get("/v1/model").status_code == 200
        finally:
            disk.take_again(loop.sink.writer_pid)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert f"store {disk.path / 'home' / 'log'} could not be written" in str(problem(refused)["detail"])
        assert loop.send(*many).status_code == 202  # by itself
        loop.settle()


def test_new_metrics_of_a_process_do_not_end_it_on_a_full_disk(tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk") as disk:
        arguments = [sys.executable, "-c", METRICS, str(disk.path / "metrics")]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            disk.stop_taking(process.pid, disk.path)
            told, _ = process.communicate(b"go on")
        assert process.returncode == 0  # what is written through memory has no other way to fail than SIGBUS
        assert told == b"300 values\n"


def test_a_stage_whose_map_is_full_names_the_setting_and_goes_on_with_a_larger_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append(tmp_path, 0, 4000)
    for map_size_bytes in (600_000, 64 << 20):
        stop = Event()
        config = FoldRunConfig(map_size_bytes=map_size_bytes)
        running = Thread(target=run_fold, args=(tmp_path, stop, config), daemon=True)
        with caplog.at_level(logging.ERROR):
            running.start()
            if map_size_bytes == 600_000:
                wait_until(lambda: "map_size_bytes = 602112" in caplog.text or "map_size_bytes = 600000" in caplog.text)
            else:
                wait_until(lambda: stored_offsets_beside(tmp_path) == 40)
            stop.set()
            running.join(20)
    assert str(tmp_path / "fold") in caplog.text


def stored_offsets_beside(home: Path) -> int:
    """Of a store that this process has open."""
    code = "import sys, pathlib\nfrom tests.stream.waiting import stored_offsets\n"
    code += "print(stored_offsets(pathlib.Path(sys.argv[1]), 'fold').get('events-0', 0))"
    return int(subprocess.run([sys.executable, "-c", code, str(home / "fold")], capture_output=True, check=True).stdout)
