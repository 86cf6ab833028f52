# Deltas: they come back as they were in another store's numbers, and their log is read, trimmed and never torn.
from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from state.catalogue import CatalogueItem
from state.deltas import (
    MAX_MESSAGE_BYTES,
    Cells,
    Delta,
    DeltaError,
    DeltaGap,
    DeltaLog,
    ModelDelta,
    Rows,
    UserRows,
    decode,
    encode,
    join,
    split,
)
from state.entry import ENTRY, Entry, pack
from state.slate import Impression, Slate, pack_impression, pack_slate, unpack_slate
from state.store import Store

NAMES = [f"item-{number}" for number in range(10)]


class Numbers:
    """A dictionary of another store: numbers in order of first use."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def number(self, name: str) -> int:
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)


def entries(*items: int) -> list[bytes]:
    return [pack(Entry(at, at, item, 1, value=0.5)) for at, item in enumerate(items, start=1)]


def test_a_fold_delta_comes_back_in_the_numbers_of_the_store_that_reads_it() -> None:
    slate = Slate(1, 2, 3, 4, (7, 5), (1, 2), (1.0, 0.5))
    delta = Delta("fold", 3, {"events-0": 9}, 77, [b"u", b"v", b"u"])
    delta.entries = np.frombuffer(b"".join(entries(7, 5, 7)), ENTRY)
    delta.slates = [(b"w", pack_slate(slate))]
    delta.impressions = [(b"u", pack_impression(Impression(1, 2, 3, items=(5,))))]
    delta.items = [CatalogueItem("item-7", 5, title="seven", features={"lang": "en"}, embedding=[0.5])]
    delta.deleted_users = [(b"x", 12)]
    there = Numbers()
    there.number("of its own")
    found = decode(encode(delta, NAMES.__getitem__), there.number)
    assert (found.stage, found.version, found.offsets, found.event_time) == ("fold", 3, {"events-0": 9}, 77)
    assert found.users == [b"u", b"v", b"u"]
    assert [there.names[item] for item in found.entries["item"]] == ["item-7", "item-5", "item-7"]
    found.entries["item"] = delta.entries["item"]
    assert found.entries.tobytes() == delta.entries.tobytes()
    assert unpack_slate(found.slates[0][1]).items == (there.number("item-7"), there.number("item-5"))
    assert found.impressions[0][0] == b"u"
    assert found.items == delta.items
    assert found.deleted_users == [(b"x", 12)]


def test_a_model_delta_comes_back_and_leaves_out_items_that_the_reader_does_not_know() -> None:
    model = ModelDelta()
    model.rows["e"] = Rows(np.array([3, 8]), np.array([[1, 2], [3, 4]], np.float16))
    model.rows["p"] = Rows(np.array([8]), np.array([[0.1]], np.float64))
    model.user_rows["u"] = UserRows([b"a", b"b"], np.array([[1], [2]], np.float16))
    model.cells["c"] = Cells(np.array([3, 8]), np.array([8, 8]), np.array([1.5, 0.0], np.float32))
    model.dense["w"] = np.arange(6, dtype=np.float16).reshape(2, 3)
    delta = Delta("learn", 1, models={"m": model}, fold_versions={"fold": 6})
    found = decode(encode(delta, NAMES.__getitem__), lambda name: 50 if name == "item-8" else -1)
    assert found.fold_versions == {"fold": 6}
    there = found.models["m"]
    assert there.rows["e"].numbers.tolist() == [50]
    assert there.rows["e"].data.tolist() == [[3, 4]]
    assert there.rows["p"].data.tolist() == [[0.1]]
    assert there.user_rows["u"].users == [b"a", b"b"]
    assert there.user_rows["u"].data.tolist() == [[1], [2]]
    assert (there.cells["c"].rows.tolist(), there.cells["c"].counts.tolist()) == ([50], [0.0])
    assert there.dense["w"].tolist() == model.dense["w"].tolist()


@given(st.lists(st.tuples(st.sampled_from([b"u", b"v", "ü".encode()]), st.integers(0, 9)), max_size=30))
def test_any_entries_come_back(happened: list[tuple[bytes, int]]) -> None:
    users, rows = [user for user, _ in happened], entries(*(item for _, item in happened))
    delta = Delta("fold", 1, users=users, entries=np.frombuffer(b"".join(rows), ENTRY))
    found = decode(encode(delta, NAMES.__getitem__), NAMES.index)
    assert found.users == users
    assert found.entries.tobytes() == b"".join(rows)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "format none"),
        (b"\x02rest", "format 2, this program knows 1"),
        (b"\x01not zstd", "cannot be read"),
        (b"\x01" + zstandard.compress(b"\xc1"), "cannot be read"),
        (b"\x01" + zstandard.compress(b"\x81\xa5stage\xa4fold"), "cannot be read"),
    ],
)
def test_what_is_no_delta_is_refused_with_the_reason(data: bytes, said: str) -> None:
    with pytest.raises(DeltaError, match=said):
        decode(data, NAMES.index)


def test_a_delta_that_points_outside_its_lists_is_refused() -> None:
    delta = Delta("fold", 6, users=[b"u"], entries=np.frombuffer(entries(1)[0], ENTRY))
    plain = zstandard.decompress(encode(delta, NAMES.__getitem__)[1:])
    broken = plain.replace(b"\xa5users\x91", b"\xa5uxers\x91", 1)  # the list of users goes: index 0 points nowhere
    assert broken != plain
    with pytest.raises(DeltaError, match="fold delta 6"):
        decode(b"\x01" + zstandard.compress(broken), NAMES.index)


@pytest.mark.parametrize("size", [1, MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES + 1, 3_000_000])
def test_every_message_fits_and_the_parts_make_the_whole(size: int) -> None:
    data = random.Random(size).randbytes(size)
    messages = split("learn", 1, data)
    assert max(map(len, messages)) <= MAX_MESSAGE_BYTES
    assert join(messages) == data
    if len(messages) > 1:
        with pytest.raises(DeltaError, match="learn delta 1 is not complete"):
            join(messages[:-1] + messages[:1])


def filled(store: Store, sizes: dict[int, int]) -> DeltaLog:
    """A log with versions of these many bytes, each appended at 10 times its number."""
    log = DeltaLog(store)
    for version, size in sizes.items():
        with store.write() as txn:
            log.append(txn, version, random.Random(version).randbytes(size), appended_at=10 * version)
    return log


def test_the_log_is_read_after_a_version_in_order_and_whole(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "learn", writer=True) as store:
        sizes = {1: 10, 2: 2_000_000, 3: 20, 4: 5}
        log = filled(store, sizes)
        with store.read() as txn:
            assert {version: len(data) for version, data in log.read(txn, 0)} == sizes
            assert [version for version, _ in log.read(txn, 1, limit=2)] == [2, 3]
            assert list(log.read(txn, 4)) == []
            assert log.last(txn) == 4


def test_a_version_is_never_written_twice_or_back(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "learn", writer=True) as store:
        log = filled(store, {1: 1, 2: 1})
        for version in (1, 2):
            with pytest.raises(ValueError, match=f"delta {version} after 2"), store.write() as txn:
                log.append(txn, version, b"x", appended_at=0)


def test_trimming_drops_what_is_old_and_learned_but_never_the_newest_nor_half_a_version(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "learn", writer=True) as store:
        log = filled(store, {1: 2_000_000, 2: 1, 3: 1, 4: 1})
        with store.write() as txn:
            assert log.trim(txn, keep_after_ms=20, keep_after_version=9, limit=1) == 1
            assert log.trim(txn, keep_after_ms=99, keep_after_version=2) == 1
            assert [version for version, _ in log.read(txn, 2)] == [3, 4]
            assert log.trim(txn, keep_after_ms=99, keep_after_version=9) == 1
            assert log.first(txn) == log.last(txn) == 4


def test_whoever_comes_too_late_is_told_what_is_gone(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "learn", writer=True) as store:
        log = filled(store, {1: 1, 2: 1, 3: 1})
        with store.write() as txn:
            log.trim(txn, keep_after_ms=99, keep_after_version=2)
        with store.read() as txn, pytest.raises(DeltaGap, match="start at 3, 2 is needed"):
            list(log.read(txn, 1))
