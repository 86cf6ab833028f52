# User records on disk: what is stored is what was folded, whenever the process was dropped.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.entry import Entry, pack
from state.record import SETS, RecordLimits, UserRecord
from state.records import Records, read_record
from state.signals import SignalTable
from state.slate import Slate, pack_slate
from state.store import Store

SIGNALS = SignalTable()
LIMITS = RecordLimits(sequence=3, seen=4, dislikes=2, slates=2, impressions=2)
USERS = (b"a", b"aa", b"b")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s", "fold", writer=True) as store:
        yield store


def flush(store: Store, records: Records) -> None:
    with store.write() as txn:
        records.flush(txn)


def stored(store: Store, user: bytes, limits: RecordLimits = LIMITS) -> bytes:
    with store.read() as txn:
        return read_record(txn, store, user, limits).encode()


ENTRIES = st.builds(
    lambda at, hash_, item, signal: pack(Entry(at, hash_, item, signal)),
    st.integers(1, 12),
    st.integers(1, 2),
    st.integers(0, 3),
    st.sampled_from([1, 3, 4, 10]),
)
SLATES = st.builds(lambda at: pack_slate(Slate(at, 1, 1, 1, (1,), (0,), (1.0,))), st.integers(1, 6))
STEPS = st.one_of(
    st.tuples(st.just("fold"), st.sampled_from(USERS), ENTRIES),
    st.tuples(st.just("slate"), st.sampled_from(USERS), SLATES),
    st.tuples(st.just("look"), st.sampled_from(USERS), st.just(b"")),
    st.tuples(st.sampled_from(["flush", "restart"]), st.just(b""), st.just(b"")),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(STEPS, max_size=50))
def test_the_disk_holds_what_was_folded_whatever_was_cached_flushed_or_looked_at(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, bytes, bytes]]
) -> None:
    expected = {user: UserRecord(LIMITS) for user in USERS}
    with Store(tmp_path_factory.mktemp("r"), "fold", writer=True) as store:
        records = Records(store, LIMITS, cache_users=1)
        for step, user, row in [*steps, ("flush", b"", b"")]:
            if step == "fold":
                assert records.get(user).fold(row, SIGNALS) is expected[user].fold(row, SIGNALS)
            elif step == "slate":
                records.get(user).fold_slate(row)
                expected[user].fold_slate(row)
            elif step == "look":
                assert records.get(user).encode() == expected[user].encode()
            else:
                flush(store, records)
                records = Records(store, LIMITS, cache_users=1) if step == "restart" else records
        for user in USERS:
            assert stored(store, user) == expected[user].encode()
            assert records.get(user).encode() == expected[user].encode()
        assert store.verify() == []


STRIDES = st.lists(st.sampled_from([1, 1, 1, 1, 0, -1, -3]), max_size=5)  # of the clock: events come nearly in order
BATCHES = st.lists(st.tuples(STRIDES, st.sampled_from(["flush", "restart", "read"])), min_size=1, max_size=8)


@settings(deadline=None, max_examples=150)
@given(BATCHES)
def test_a_full_record_takes_what_comes_in_order_and_what_does_not_as_if_it_were_all_in_memory(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[list[int], str]]
) -> None:
    expected, at = UserRecord(LIMITS), 1000
    with Store(tmp_path_factory.mktemp("r"), "fold", writer=True) as store:
        records = Records(store, LIMITS)
        for strides, then in batches:
            for stride in strides:
                at += stride
                row = pack(Entry(at, 1, at % 5, 1))
                assert records.get(b"a").fold(row, SIGNALS) is expected.fold(row, SIGNALS)
            if then == "read":
                assert records.get(b"a").encode() == expected.encode()
            flush(store, records)
            records = Records(store, LIMITS) if then == "restart" else records
            assert stored(store, b"a") == expected.encode()


def test_users_whose_ids_are_prefixes_of_each_other_do_not_mix(store: Store) -> None:
    records = Records(store, LIMITS)
    records.get(b"a").fold(pack(Entry(1, 1, 1, 1)), SIGNALS)
    records.get(b"aa").fold(pack(Entry(2, 1, 2, 1)), SIGNALS)
    flush(store, records)
    with store.read() as txn:
        assert read_record(txn, store, b"a").seen_items() == [1]


def test_the_cache_is_bounded_and_never_drops_what_is_not_written(store: Store) -> None:
    records = Records(store, LIMITS, cache_users=2)
    for number in range(50):
        records.get(f"u{number}".encode()).fold(pack(Entry(1, 1, number, 1)), SIGNALS)
    flush(store, records)
    assert all(stored(store, f"u{number}".encode()) != UserRecord(LIMITS).encode() for number in range(50))


def test_dropping_the_cache_before_a_flush_loses_what_came_since_and_nothing_else(store: Store) -> None:
    records = Records(store, LIMITS)
    records.get(b"a").fold(pack(Entry(1, 1, 1, 1)), SIGNALS)
    flush(store, records)
    before = stored(store, b"a")
    records.get(b"a").fold(pack(Entry(2, 1, 1, 1)), SIGNALS)
    assert stored(store, b"a") == before == Records(store, LIMITS).get(b"a").encode()


def test_a_deleted_user_leaves_every_set_and_what_was_received_before_stays_out(store: Store) -> None:
    records = Records(store, LIMITS)
    for at in range(1, 8):
        records.get(b"a").fold(pack(Entry(at, 1, at, 4)), SIGNALS)
        records.get(b"a").fold_slate(pack_slate(Slate(at, 1, 1, 1, (1,), (0,), (1.0,))))
    records.get(b"b").fold(pack(Entry(1, 1, 1, 1)), SIGNALS)
    flush(store, records)
    records.forget(b"a", received_at=100)
    flush(store, records)
    with store.read() as txn:
        for name in SETS:
            assert txn.get(b"a", db=store.db(name)) is None
    for fresh in (records, Records(store, LIMITS)):
        assert fresh.get(b"a").forgotten_at == 100
        assert fresh.get(b"b").forgotten_at == 0
    assert stored(store, b"b") != UserRecord(LIMITS).encode()


def test_a_deleted_user_may_come_back_within_the_same_flush(store: Store) -> None:
    records = Records(store, LIMITS)
    records.get(b"a").fold(pack(Entry(1, 1, 1, 1)), SIGNALS)
    records.forget(b"a", received_at=100)
    records.get(b"a").fold(pack(Entry(2, 1, 2, 1)), SIGNALS)
    flush(store, records)
    assert Records(store, LIMITS).get(b"a").seen_items() == [2]


def test_a_deleted_user_who_comes_back_is_kept_as_by_a_process_that_starts_anew(store: Store, tmp_path: Path) -> None:
    records = Records(store, LIMITS)
    with Store(tmp_path / "anew", "fold", writer=True) as other:
        for at in range(1, 40):
            anew = Records(other, LIMITS)
            for each, written in ((records, store), (anew, other)):
                if at == 10:
                    each.forget(b"a", 0)
                each.get(b"a").fold(pack(Entry(at, 1, at, 4)), SIGNALS)
                each.get(b"a").fold_slate(pack_slate(Slate(at, 1, 1, 1, (1,), (0,), (1.0,))))
                if at % 13 == 0:
                    each.get(b"a").newest_timestamp()
                flush(written, each)
        for name in SETS:
            with store.read() as one, other.read() as two:
                assert list(one.cursor(store.db(name))) == list(two.cursor(other.db(name))), name


def test_an_earlier_wish_to_be_deleted_does_not_undo_a_later_one(store: Store) -> None:
    records = Records(store, LIMITS)
    records.forget(b"a", received_at=100)
    flush(store, records)
    records.forget(b"a", received_at=50)
    flush(store, records)
    assert Records(store, LIMITS).get(b"a").forgotten_at == 100


def test_an_event_rewrites_a_few_pages_however_large_the_record_is(store: Store) -> None:
    limits = RecordLimits(sequence=5000, seen=5000)  # 54 pages of sequence, 15 of seen
    records = Records(store, limits)
    for at in range(1, 10_001):
        records.get(b"a").fold(pack(Entry(at, 1, at, 1)), SIGNALS)
    flush(store, records)
    pages = num_pages(store)
    records.get(b"a").fold(pack(Entry(99_999, 1, 1, 1)), SIGNALS)
    flush(store, records)
    assert num_pages(store) - pages <= 16  # both ends of two trees, the ways there, LMDB's own


def num_pages(store: Store) -> int:
    """Pages of the file: a commit on a store without free pages adds those that it writes."""
    return (store.path / "data.mdb").stat().st_size // 4096
