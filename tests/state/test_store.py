# The store: one writer, commits that are whole or nothing, and clear refusals.
from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from state.lock import WriterLock
from state.meta import check_model, check_signals, get_version, put_version
from state.offsets import add_totals, get_offsets, get_totals, put_offsets
from state.signals import Signal, SignalTable
from state.store import (
    Store,
    StoreConfigurationChanged,
    StoreError,
    StoreLocked,
    StoreMissing,
    StoreTooNew,
    StoreUnwritable,
)
from state.store_errors import StoreFull

HOLD = """
import sys, pathlib
from state.store import Store
store = Store(pathlib.Path(sys.argv[1]), "fold", writer=True)
print("open", flush=True)
sys.stdin.read()
"""
ADD = """
import sys, pathlib
from state.store import Store
store = Store(pathlib.Path(sys.argv[1]), "learn", writer=True)
with store.write() as txn:
    txn.put(b"k", b"v", db=store.db("rows:new", txn=txn))
"""


def test_what_is_committed_is_there_after_opening_anew(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "fold", writer=True) as store, store.write() as txn:
        put_offsets(txn, store, {"events-0": 5, "events-1": 2**40})
        put_version(txn, store, "fold", 3)
    with Store(tmp_path / "s") as store, store.read() as txn:
        assert store.stage == "fold"
        assert get_offsets(txn, store) == {"events-0": 5, "events-1": 2**40}
        assert get_version(txn, store, "fold") == 3


def test_a_commit_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "fold", writer=True) as store:

        def write_and_fail() -> None:
            with store.write() as txn:
                put_offsets(txn, store, {"events-0": 5})
                store.db("lately", txn=txn)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            write_and_fail()
        with store.read() as txn:
            assert get_offsets(txn, store) == {}
        assert store.find("lately") is None


def test_offsets_of_two_stages_in_one_store_do_not_mix(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "follow", writer=True) as store:
        with store.write() as txn:
            put_offsets(txn, store, {"events-0": 9}, "fold")
            put_offsets(txn, store, {"events-0": 4}, "learn")
        with store.read() as txn:
            assert get_offsets(txn, store, "fold") == {"events-0": 9}
            assert get_offsets(txn, store, "learn") == {"events-0": 4}


def test_totals_add_up(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "fold", writer=True) as store:
        for _ in range(2):
            with store.write() as txn:
                add_totals(txn, store, {("view", "new"): 2, ("view", "late"): 1})
        with store.read() as txn:
            assert get_totals(txn, store) == {("view", "new"): 4, ("view", "late"): 2}


def test_a_second_writer_of_another_process_is_refused_by_pid_and_command(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "s")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreLocked, match=rf"s is written by process {holder.pid} \(-c "):
            Store(tmp_path / "s", "fold", writer=True)
        with Store(tmp_path / "s") as reader:
            assert reader.stage == "fold"
    finally:
        holder.communicate()
    Store(tmp_path / "s", "fold", writer=True).close()


def test_a_writer_that_was_killed_leaves_no_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "s")], stdin=subprocess.PIPE, stdout=-1)
    assert holder.stdout is not None
    holder.stdout.readline()
    holder.kill()
    holder.communicate()
    Store(tmp_path / "s", "fold", writer=True).close()


def test_a_second_writer_of_the_same_process_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "fold", writer=True):
        with pytest.raises(StoreLocked, match=str(os.getpid())):
            Store(tmp_path / "s", "fold", writer=True)
        with pytest.raises(StoreError, match="already open in this process"):
            Store(tmp_path / "s")


def test_a_reader_of_nothing_is_told_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match=str(tmp_path / "s")):
        Store(tmp_path / "s")
    assert not (tmp_path / "s").exists()
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "data.mdb").touch()  # a writer that is just beginning
    with pytest.raises(StoreMissing):
        Store(tmp_path / "s")


def test_a_store_of_a_newer_format_is_refused_naming_both(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "fold", writer=True) as store, store.write() as txn:
        store.put_meta(txn, "format", 99)
    with pytest.raises(StoreTooNew, match="format 99, this program knows formats up to 1"):
        Store(tmp_path / "s", "fold", writer=True)


def test_a_store_of_another_stage_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "s", "fold", writer=True).close()
    with pytest.raises(StoreError, match="is a fold store, not a learn store"):
        Store(tmp_path / "s", "learn", writer=True)


def test_a_file_that_is_no_store_is_refused_by_path(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "data.mdb").write_bytes(b"not a store" * 1000)
    with pytest.raises(StoreError, match=str(tmp_path / "s")):
        Store(tmp_path / "s", "fold", writer=True)


def test_a_full_map_names_its_setting_and_loses_nothing_that_was_there(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "fold", writer=True, map_size_bytes=1 << 20) as store:
        with store.write() as txn:
            put_offsets(txn, store, {"events-0": 1})

        def overfill() -> None:
            with store.write() as txn:
                put_offsets(txn, store, {"events-0": 2})
                txn.put(b"big", bytes(2 << 20), db=store.db("catalogue"))

        with pytest.raises(StoreFull, match="map_size_bytes = 1048576"):
            overfill()
    with Store(tmp_path / "s", "fold", writer=True) as store, store.read() as txn:
        assert get_offsets(txn, store) == {"events-0": 1}


def test_a_reader_goes_on_when_the_writer_outgrew_its_map(tmp_path: Path) -> None:
    Store(tmp_path / "s", "fold", writer=True, map_size_bytes=1 << 20).close()
    grow = (
        "import sys, pathlib; from state.store import Store\n"
        "s = Store(pathlib.Path(sys.argv[1]), 'fold', writer=True)\n"
        "with s.write() as txn: txn.put(b'big', bytes(4 << 20), db=s.db('catalogue'))"
    )
    with Store(tmp_path / "s", map_size_bytes=1 << 20) as reader:
        subprocess.run([sys.executable, "-c", grow, str(tmp_path / "s")], check=True)
        with reader.read() as txn:
            assert txn.get(b"big", db=reader.db("catalogue")) == bytes(4 << 20)


def test_a_held_transaction_sees_databases_that_the_writer_added_before_it(tmp_path: Path) -> None:
    Store(tmp_path / "s", "learn", writer=True).close()
    with Store(tmp_path / "s") as reader:
        subprocess.run([sys.executable, "-c", ADD, str(tmp_path / "s")], check=True)
        txn = reader.begin_read_whole()
        assert txn.get(b"k", db=reader.db("rows:new")) == b"v"
        reader.end_read(txn)


def test_databases_that_the_writer_added_since_stay_readable_after_they_were_listed(tmp_path: Path) -> None:
    Store(tmp_path / "s", "learn", writer=True).close()
    with Store(tmp_path / "s") as reader:
        subprocess.run([sys.executable, "-c", ADD, str(tmp_path / "s")], check=True)
        with reader.read() as txn:
            assert "rows:new" in reader.databases(txn)
        with reader.read() as txn:
            assert txn.get(b"k", db=reader.db("rows:new")) == b"v"


def test_a_thread_that_reads_sees_every_database_of_its_commit(tmp_path: Path) -> None:
    """The writer's own process reads while each commit adds databases."""
    names = [f"new:{number}" for number in range(100)]
    with Store(tmp_path / "s", "learn", writer=True) as store, ThreadPoolExecutor(1) as pool:

        def read_all() -> int:
            txn = store.begin_read_whole()
            try:
                known = store.get_meta(txn, "names", list[str]) or []
                assert [txn.get(b"name", db=store.db(name)) for name in known] == [name.encode() for name in known]
            finally:
                store.end_read(txn)
            return len(known)

        def write_all() -> None:
            for number, name in enumerate(names):
                with store.write() as txn:
                    txn.put(b"name", name.encode(), db=store.db(name, txn=txn))
                    store.put_meta(txn, "names", names[: number + 1])

        writing = pool.submit(write_all)
        while not writing.done():
            read_all()
        writing.result()
        assert read_all() == len(names)


def test_a_snapshot_is_a_store_and_the_original_is_sound(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "fold", writer=True) as store:
        with store.write() as txn:
            put_offsets(txn, store, {"events-0": 5})
        store.copy(tmp_path / "copy")
    with Store(tmp_path / "copy", "fold", writer=True) as copy, copy.read() as txn:
        assert get_offsets(txn, copy) == {"events-0": 5}
    with Store(tmp_path / "s") as store:
        assert store.verify() == []


def test_a_copy_that_the_disk_has_no_room_for_is_refused_with_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with Store(tmp_path / "s", "fold", writer=True) as store:
        with pytest.raises(StoreUnwritable, match=rf"s: a copy takes {store.file_bytes()} bytes, .* has 100 free"):
            store.copy(tmp_path / "copy")
        assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_signal_code_cannot_change_and_a_freed_one_cannot_be_reused(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "fold", writer=True) as store:
        with store.write() as txn:
            check_signals(txn, store, SignalTable([Signal("view", 1, 1, 1), Signal("nod", 20, 1, 1)]))
            check_signals(txn, store, SignalTable([Signal("view", 1, 0, 9)]))
        with pytest.raises(StoreConfigurationChanged, match=r"'view' has code 1 in the store, 2"), store.write() as txn:
            check_signals(txn, store, SignalTable([Signal("view", 2, 1, 1)]))
        with pytest.raises(StoreConfigurationChanged, match=r"'wave'.*code 20.*'nod'"), store.write() as txn:
            check_signals(txn, store, SignalTable([Signal("wave", 20, 1, 1)]))


def test_another_model_configuration_is_refused_naming_the_key_and_the_command(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "learn", writer=True) as store:
        with store.write() as txn:
            check_model(txn, store, "transformer", {"width": 32, "heads": 2})
            check_model(txn, store, "transformer", {"heads": 2, "width": 32})
        with store.write() as txn, pytest.raises(StoreConfigurationChanged) as refusal:
            check_model(txn, store, "transformer", {"width": 64, "heads": 2})
    for said in ("'transformer'", "width 32 → 64", "runnel learn --rebuild transformer"):
        assert said in str(refusal.value)
    assert "heads" not in str(refusal.value)


def test_a_lock_that_the_disk_does_not_take_is_held_by_nobody(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        for _ in range(2):  # a stage tries again and again
            with pytest.raises(OSError, match="File too large"):
                WriterLock(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    WriterLock(tmp_path).release()
