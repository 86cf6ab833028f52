# Snapshots: complete or not there, named by stage and version, the newest kept, while the stage goes on.
from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Event, Thread
from time import sleep

import pytest

from state.dump import dump
from state.lock import take_lock
from state.meta import get_version, put_version
from state.snapshots import list_snapshots, write_snapshot
from state.store import Store, StoreLocked

SNAPSHOT = """
import sys, pathlib
from state.snapshots import write_snapshot
from state.store import Store
store = Store(pathlib.Path(sys.argv[1]))
print("ready", flush=True)
while True:
    write_snapshot(store, pathlib.Path(sys.argv[2]), 2)
"""


def commit(store: Store, version: int) -> None:
    """A version that is found in two places of the store."""
    with store.write() as txn:
        put_version(txn, store, "fold", version)
        rows = [(b"user", b"%044d" % number) for number in range(200)]
        txn.cursor(store.db("sequence")).putmulti(rows)  # a set of rows with pages of its own
        txn.put(b"version", version.to_bytes(8, "big") * 2000, db=store.db("catalogue"))


def test_a_snapshot_is_the_store_at_a_version_and_bears_its_number(tmp_path: Path) -> None:
    with Store(tmp_path / "fold", "fold", writer=True) as store:
        commit(store, 7)
        made = write_snapshot(store, tmp_path / "kept", keep=3)
        before = dump(store)
        commit(store, 8)
    assert made.path == tmp_path / "kept" / "fold-000000000007"
    assert sorted(path.name for path in made.path.iterdir()) == ["data.mdb"]
    with Store(made.path, "fold") as snapshot:
        assert dump(snapshot) == before
        assert snapshot.verify() == []


def test_the_newest_are_kept_and_the_same_version_is_kept_once(tmp_path: Path) -> None:
    with Store(tmp_path / "fold", "fold", writer=True) as store:
        for version in (1, 2, 2, 10, 11):
            commit(store, version)
            write_snapshot(store, tmp_path / "kept", keep=3)
    assert [snapshot.version for snapshot in list_snapshots(tmp_path / "kept", "fold")] == [2, 10, 11]
    assert list_snapshots(tmp_path / "kept", "learn") == []
    assert {path.name for path in (tmp_path / "kept").iterdir() if path.is_dir()} == {
        f"fold-{version:012}" for version in (2, 10, 11)
    }


def test_snapshots_of_a_store_that_was_there_before_do_not_displace_those_of_the_new_one(tmp_path: Path) -> None:
    for life, versions in (("first", (90, 91)), ("second", (1, 2))):
        with Store(tmp_path / life, "fold", writer=True) as store:
            for version in versions:
                commit(store, version)
                write_snapshot(store, tmp_path / "kept", keep=2)
    assert [snapshot.version for snapshot in list_snapshots(tmp_path / "kept", "fold")] == [1, 2]


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    with Store(tmp_path / "fold", "fold", writer=True) as store:
        commit(store, 1)
        (tmp_path / "kept").mkdir()
        assert take_lock(tmp_path / "kept" / "fold.lock") is not None
        with pytest.raises(StoreLocked, match="is being written by another process"):
            write_snapshot(store, tmp_path / "kept", keep=3)


def test_snapshots_killed_at_any_instant_while_the_stage_commits_are_whole_or_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "fold", "fold", writer=True)
    commit(store, 1)
    stop = Event()

    def commit_on() -> None:
        version = 1
        while not stop.is_set():
            commit(store, version := version + 1)

    committing = Thread(target=commit_on, daemon=True)
    committing.start()
    arguments = [sys.executable, "-c", SNAPSHOT, str(tmp_path / "fold"), str(tmp_path / "kept")]
    for kill in range(6):
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            sleep(0.02 + 0.013 * kill)  # the instant, not a wait
            process.kill()
        for made in list_snapshots(tmp_path / "kept", "fold"):
            with Store(made.path, "fold") as snapshot, snapshot.read() as txn:
                assert get_version(txn, snapshot, "fold") == made.version
                assert txn.get(b"version", db=snapshot.db("catalogue")) == made.version.to_bytes(8, "big") * 2000
    stop.set()
    committing.join()
    write_snapshot(store, tmp_path / "kept", keep=2)
    assert len(list_snapshots(tmp_path / "kept", "fold")) == 2
    assert not [path for path in (tmp_path / "kept").iterdir() if path.name.endswith(("-new", ".part"))]
    store.close()
