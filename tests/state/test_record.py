# The user record: sets that neither order nor repetition changes.
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from state.entry import Entry, pack
from state.record import Outcome, RecordLimits, UserRecord
from state.signals import SignalTable
from state.slate import Impression, Slate, pack_impression, pack_slate

SIGNALS = SignalTable()
VIEW, LIKE, DISLIKE, UNDO = (SIGNALS.by_name[name].code for name in ("view", "like", "dislike", "undo"))
LIMITS = RecordLimits(sequence=4, seen=5, dislikes=3, slates=2, impressions=2)  # small, so that every bound is passed
# few timestamps, hashes and items: ties and rows that claim one key with other content come up
ENTRIES = st.builds(
    lambda at, hash_, item, signal: Entry(at, hash_, item, signal),
    st.integers(1, 9),
    st.integers(1, 2),
    st.integers(0, 3),
    st.sampled_from([VIEW, LIKE, DISLIKE, UNDO]),
)
SLATES = st.builds(lambda at, item: Slate(at, 1, 1, 1, (item,), (0,), (1.0,)), st.integers(1, 6), st.integers(0, 2))
SEEN = st.builds(lambda at, places: Impression(at, 1, 1, (), places), st.integers(1, 6), st.tuples(st.integers(0, 2)))
HAPPENINGS = st.lists(ENTRIES | SLATES | SEEN, max_size=30)


def folded(happenings: list[Entry | Slate | Impression], limits: RecordLimits = LIMITS) -> UserRecord:
    record = UserRecord(limits)
    for happening in happenings:
        if isinstance(happening, Entry):
            record.fold(pack(happening), SIGNALS)
        elif isinstance(happening, Slate):
            record.fold_slate(pack_slate(happening))
        else:
            record.fold_impression(pack_impression(happening))
    return record


@given(HAPPENINGS, st.data())
def test_any_permutation_and_duplication_gives_the_same_bytes(
    happenings: list[Entry | Slate | Impression], data: st.DataObject
) -> None:
    repeated = happenings + data.draw(st.lists(st.sampled_from(happenings), max_size=20) if happenings else st.just([]))
    shuffled = data.draw(st.permutations(repeated))
    assert folded(shuffled).encode() == folded(happenings).encode()


@given(st.lists(ENTRIES, max_size=30))
def test_the_sequence_is_the_newest_distinct_entries(entries: list[Entry]) -> None:
    least_of_key: dict[bytes, bytes] = {}
    for row in sorted(map(pack, entries)):
        least_of_key.setdefault(row[:16], row)
    assert folded(list(entries)).sequence.rows == sorted(least_of_key.values())[-LIMITS.sequence :]


def entry(at: int, item: int = 1, signal: int = VIEW, hash_: int = 1) -> Entry:
    return Entry(at, hash_, item, signal)


def test_a_repeat_is_a_duplicate_and_what_is_older_than_a_full_window_is_late() -> None:
    record = UserRecord(LIMITS)
    assert [record.fold(pack(entry(at)), SIGNALS) for at in (5, 6, 7, 8)] == [Outcome.NEW] * 4
    assert record.fold(pack(entry(6)), SIGNALS) is Outcome.DUPLICATE
    assert record.fold(pack(entry(4)), SIGNALS) is Outcome.LATE
    assert record.fold(pack(entry(9)), SIGNALS) is Outcome.NEW
    assert [int.from_bytes(row[:8], "big") for row in record.sequence.rows] == [6, 7, 8, 9]


def test_a_dislike_holds_until_undone() -> None:
    record = folded([entry(1, 10, DISLIKE), entry(2, 11, DISLIKE), entry(3, 10, UNDO)])
    assert record.disliked() == {11}


def test_likes_do_not_push_a_dislike_out() -> None:
    likes = [entry(timestamp, 20 + timestamp, LIKE) for timestamp in range(2, 10)]
    assert folded([entry(1, 10, DISLIKE), *likes]).disliked() == {10}


def test_an_undo_that_comes_before_its_dislike_still_undoes_it() -> None:
    assert folded([entry(2, 10, UNDO), entry(1, 10, DISLIKE)]).disliked() == set()


def test_seen_items_reach_back_beyond_the_sequence_and_come_oldest_first() -> None:
    record = folded([entry(at, item) for at, item in enumerate([1, 2, 3, 4, 5, 6, 2], start=1)])
    assert len(record.sequence.rows) == 4
    assert record.seen_items() == [1, 3, 4, 5, 6, 2]


def test_seen_is_bounded() -> None:
    record = folded([entry(at, at) for at in range(1, 50)])
    assert record.seen_items() == list(range(41, 50))  # 4 of the sequence, 5 before it


def test_entries_before_a_moment_are_cut_strictly_and_oldest_first() -> None:
    record = folded([entry(at, hash_=hash_) for at, hash_ in [(1, 1), (2, 1), (2, 2), (3, 1)]])
    assert record.entries_before(2, 2, 10) == [pack(entry(1)), pack(entry(2))]
    assert record.entries_before(2, 2, 1) == [pack(entry(2))]
    assert record.entries_before(1, 1, 10) == []


def test_impressions_and_slates_never_enter_the_sequence() -> None:
    record = folded([Slate(1, 1, 1, 1, (5,), (0,), (1.0,)), Impression(2, 1, 1)])
    assert record.sequence.rows == []
    assert record.seen_items() == []
    assert len(record.slates.rows) == len(record.impressions.rows) == 1
