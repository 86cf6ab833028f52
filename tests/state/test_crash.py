# Kill -9 at any instant, then restart: what is exactly once equals an uninterrupted run byte for byte.
from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from state.deltas import DeltaLog
from state.dump import dump
from state.meta import get_version
from state.offsets import get_offsets
from state.store import Store
from tests.state.crash_writer import NUM_EVENTS

NUM_KILLS = 15


def run(path: Path, seed: int, kill_after_seconds: float | None = None) -> bool:
    """Let the writer run, for a while or to its end; whether it came there."""
    command = [sys.executable, "-m", "tests.state.crash_writer", str(path), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            process.wait(kill_after_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.returncode == 0


def dumps(path: Path) -> dict[str, bytes]:
    """The content of both stores, whose files must be sound."""
    found: dict[str, bytes] = {}
    for stage in ("fold", "learn"):
        with Store(path / stage) as store:
            found |= {f"{stage} {part}": data for part, data in dump(store).items()}
            assert store.verify() == []
    return found


def test_records_catalogue_counters_totals_and_offsets_survive_kills_byte_for_byte(tmp_path: Path) -> None:
    assert run(tmp_path / "calm", seed=0)
    expected = dumps(tmp_path / "calm")
    with Store(tmp_path / "calm" / "fold") as store, store.read() as txn:
        assert get_offsets(txn, store) == {"log": NUM_EVENTS}
    rng, num_kills = random.Random(7), 0
    while num_kills < NUM_KILLS and not run(tmp_path / "killed", num_kills, rng.uniform(0.0, 0.12)):
        num_kills += 1
        with Store(tmp_path / "killed" / "fold") as store, store.read() as txn:
            assert DeltaLog(store).last(txn) == get_version(txn, store, "fold")
    assert num_kills >= 5, "the writer was done before it was killed often enough to say anything"
    while not run(tmp_path / "killed", seed=99):
        pass
    found = dumps(tmp_path / "killed")
    assert {part for part in expected if found[part] != expected[part]} == set()
    assert found.keys() == expected.keys()
