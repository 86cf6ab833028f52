# Compaction: the disk gets its space back, readers go on, and a kill at any instant leaves the old or the new store.
from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

from state import generation
from state.compaction import compact
from state.dictionary import Dictionary
from state.dump import dump
from state.entry import Entry, pack
from state.meta import get_version, put_version
from state.store import Store

NUM_KILLS = 12
NUM_GENERATIONS, DEADLINE_SECONDS = 200, 60.0
COMPACT = """
import sys, pathlib
from state.compaction import compact
print("ready", flush=True)
while True:
    compact(pathlib.Path(sys.argv[1]), "fold")
"""


def fill(store: Store, num_items: int, version: int) -> None:
    """Items in the dictionary, and as much again that was written and deleted: pages that are free."""
    dictionary = Dictionary(store)
    for number in range(len(dictionary), num_items):
        dictionary.number(f"item-{number}")
    with store.write() as txn:
        for number in range(200):
            txn.put(b"waste%d" % number, os.urandom(4000), db=store.db("catalogue"))
        for user in range(5 * version):
            rows = [(b"user%d" % user, pack(Entry(at, 1, at % 7, 1))) for at in range(12 * user)]
            txn.cursor(store.db("sequence")).putmulti(rows)  # from some fifty on, a user has pages of his own
        dictionary.flush(txn)
        put_version(txn, store, "fold", version)
    with store.write() as txn:
        for number in range(200):
            txn.delete(b"waste%d" % number, db=store.db("catalogue"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A fold store with more free pages than content."""
    with Store(tmp_path / "fold", "fold", writer=True) as store:
        fill(store, 500, 1)
    return tmp_path / "fold"


def content(path: Path) -> dict[str, bytes]:
    with Store(path) as store:
        assert store.verify() == []
        return dump(store)


def test_a_compacted_store_has_the_same_content_and_less_on_disk(path: Path) -> None:
    before = content(path)
    sizes = compact(path, "fold")
    assert content(path) == before
    assert sizes[1] < sizes[0] / 2
    assert before["sequence"]
    on_disk = list(path.rglob("data.mdb"))
    assert [file.stat().st_size for file in on_disk] == [sizes[1]]  # the old file is gone


def test_a_compacted_store_is_written_and_compacted_again(path: Path) -> None:
    for version in (2, 3):
        compact(path, "fold")
        with Store(path, "fold", writer=True) as store:
            fill(store, 500 * version, version)
    with Store(path) as store:
        assert len(Dictionary(store)) == 1500


def test_a_reader_goes_on_and_sees_that_there_is_a_new_file(path: Path) -> None:
    with Store(path) as reader, reader.read() as txn:
        dictionary = txn.stat(reader.db("dictionary"))
        subprocess.run([sys.executable, "-c", COMPACT.replace("while True", "if True"), str(path)], check=True)
        assert reader.is_outdated
        assert txn.stat(reader.db("dictionary")) == dictionary
    with Store(path) as reader:
        assert not reader.is_outdated


def test_a_reader_that_opens_the_store_while_it_is_compacted_always_finds_it(path: Path) -> None:
    found = set[str]()
    with subprocess.Popen([sys.executable, "-c", COMPACT, str(path)]) as compacting:
        give_up_at = monotonic() + DEADLINE_SECONDS
        try:
            while len(found) < NUM_GENERATIONS:
                assert monotonic() < give_up_at, f"{len(found)} generations opened"
                assert compacting.poll() is None
                with Store(path) as reader, reader.read() as txn:
                    assert get_version(txn, reader, "fold") == 1
                found.add(generation.current(path))
        finally:
            compacting.kill()


def test_what_a_compaction_that_was_killed_left_is_cleared_by_the_next_writer(path: Path) -> None:
    before = content(path)
    (generation.next_folder(path) / "data.mdb").write_bytes(b"half a copy")
    Store(path, "fold", writer=True).close()
    assert not list(path.glob("generation-*"))
    assert content(path) == before


def test_a_compaction_killed_at_any_instant_leaves_a_sound_store_of_the_same_content(path: Path) -> None:
    before, started = content(path), monotonic()
    compact(path, "fold")
    seconds, first = monotonic() - started, generation.number(generation.current(path))
    rng = random.Random(5)
    for _ in range(NUM_KILLS):
        with subprocess.Popen([sys.executable, "-c", COMPACT, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            sleep(rng.uniform(0.0, 2 * seconds))  # the instant, not a wait
            process.kill()
        assert content(path) == before
    assert generation.number(generation.current(path)) > first
