# The fold stage: what a commit holds, and that it does not matter where commits are cut.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.dictionary import Dictionary
from state.entry import unpack
from state.meta import get_version
from state.offsets import get_offsets, get_totals
from state.records import read_record
from state.signals import Signal, SignalTable
from state.store import Store, StoreConfigurationChanged
from stream.dead_letters import DeadLetterConfig, read_dead_letters
from stream.fold import FoldConfig, FoldStage
from stream.source import IterableSource, Message
from tests.stream.helpers import (
    NOW,
    JsonEvent,
    catalogue_of,
    deltas_of,
    fold,
    fold_dump,
    random_events,
    stamped,
    value,
    view,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "fold", "fold", writer=True) as store:
        yield store


def items_of(store: Store, user: str) -> list[str]:
    with store.read() as txn:
        rows = read_record(txn, store, user.encode()).sequence.rows
        return [Dictionary(store).name(unpack(row).item) for row in rows]


def totals_of(store: Store) -> dict[tuple[str, str], int]:
    with store.read() as txn:
        return get_totals(txn, store)


def test_one_step_commits_record_totals_offset_version_and_delta_together(store: Store) -> None:
    fold(store, [value(view("u", "a"), view("u", "b", 5))])
    assert items_of(store, "u") == ["a", "b"]
    assert totals_of(store) == {("view", "accepted"): 2}
    (delta,) = deltas_of(store)
    assert (delta.version, delta.offsets, delta.event_time) == (1, {"values-0": 1}, NOW + 5)
    assert delta.users == [b"u", b"u"]
    with store.read() as txn:
        assert get_offsets(txn, store) == {"values-0": 1}
        assert get_version(txn, store, "fold") == 1


def test_a_step_without_messages_commits_nothing(store: Store) -> None:
    stage = FoldStage(store, IterableSource([]))
    assert stage.step().version == 0
    assert deltas_of(store) == []


def test_a_failed_commit_leaves_the_store_at_the_version_before(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    values = stamped([value(view("u", "a")), value(view("u", "b", 1))])
    stage = FoldStage(store, IterableSource(values), config=FoldConfig(max_events=1))
    stage.step()

    def refuse(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("stream.fold.put_version", refuse)
    with pytest.raises(OSError, match="no space"):
        stage.step()
    monkeypatch.undo()
    assert items_of(store, "u") == ["a"]
    fold(store, [data for _, data in values])
    assert items_of(store, "u") == ["a", "b"]
    assert totals_of(store) == {("view", "accepted"): 2}


def test_messages_below_the_stored_offset_are_skipped_even_if_the_source_brings_them(store: Store) -> None:
    fold(store, [value(view("u", "a")), value(view("u", "b", 1))])

    class Repeating(IterableSource):
        def seek(self, partition: str, offset: int | None) -> int:  # noqa: ARG002
            return offset or 0

    values = stamped([value(view("u", "a")), value(view("u", "b", 1)), value(view("u", "c", 2))])
    stage = FoldStage(store, Repeating(values))
    assert stage.step().num_messages == 1
    assert totals_of(store) == {("view", "accepted"): 3}


def test_partitions_keep_their_own_offsets(store: Store) -> None:
    class Two(IterableSource):
        def partitions(self) -> list[str]:
            return ["p", "q"]

        def seek(self, partition: str, offset: int | None) -> int:  # noqa: ARG002
            return offset or 0

        def poll(self, max_messages: int, timeout_seconds: float) -> list[Message]:  # noqa: ARG002
            return [Message("p", 4, NOW, value(view("u", "a"))), Message("q", 9, NOW, value(view("v", "a")))]

    stage = FoldStage(store, Two([]))
    assert stage.step().num_messages == 2
    assert stage.step().num_messages == 0
    assert stage.offsets == {"p": 5, "q": 10}


def test_a_repeated_event_is_counted_and_changes_nothing(store: Store) -> None:
    event = view("u", "a", event_id="e")
    fold(store, [value(event)])
    fold(store, [value(event), value(event, event)])
    assert items_of(store, "u") == ["a"]
    assert totals_of(store) == {("view", "accepted"): 1, ("view", "duplicate"): 2}
    assert [len(delta.entries) for delta in deltas_of(store)] == [1, 0]


def test_an_event_older_than_a_full_sequence_is_late(store: Store) -> None:
    fold(store, [value(*[view("u", f"i{at}", at) for at in range(1, 201)])])
    fold(store, [b"[]", value(view("u", "old", 0))])
    assert totals_of(store) == {("view", "accepted"): 200, ("view", "late"): 1}
    assert "old" not in items_of(store, "u")


def test_bad_events_become_dead_letters_and_the_rest_goes_on(store: Store) -> None:
    bad = {"type": "vieuw", "user_id": "u", "timestamp": NOW}
    fold(store, [value(view("u", "a"), bad, view("u", "b", 1)), b"not json", value(view("u", "c", 2))])
    assert items_of(store, "u") == ["a", "b", "c"]
    assert totals_of(store) == {("view", "accepted"): 3, ("invalid", "rejected"): 2}
    with store.read() as txn:
        newest, oldest = read_dead_letters(txn, store)
    assert (oldest.partition, oldest.offset, oldest.index, oldest.field) == ("values-0", 0, 1, "type")
    assert "vieuw" in oldest.reason
    assert (newest.offset, newest.raw, newest.received_at) == (1, b"not json", NOW + 1000)


def test_dead_letters_are_bounded_by_number_and_by_age(store: Store) -> None:
    config = FoldConfig(max_events=1, dead_letters=DeadLetterConfig(retention_ms=3500, max_letters=10))
    fold(store, [b"x%d" % place for place in range(20)], config)
    with store.read() as txn:
        assert [letter.raw for letter in read_dead_letters(txn, store)] == [b"x19", b"x18", b"x17", b"x16"]
    config = FoldConfig(max_events=1, dead_letters=DeadLetterConfig(max_letters=2))
    fold(store, [b"x%d" % place for place in range(25)], config)
    with store.read() as txn:
        assert [letter.raw for letter in read_dead_letters(txn, store)] == [b"x24", b"x23"]


def test_the_newest_upsert_of_an_item_wins_and_a_delete_is_a_tombstone(store: Store) -> None:
    item = {"type": "item", "item_id": "a", "timestamp": NOW, "title": "new", "categories": ["c"], "embedding": [0.5]}
    fold(store, [value(item), value(item | {"timestamp": NOW - 1, "title": "old"})])
    assert catalogue_of(store)["a"].title == "new"
    assert totals_of(store) == {("item", "accepted"): 1, ("item", "duplicate"): 1}
    fold(store, [b"[]", b"[]", value({"type": "item_delete", "item_id": "a", "timestamp": NOW + 1})])
    assert catalogue_of(store)["a"].deleted
    assert [[item.deleted for item in delta.items] for delta in deltas_of(store)] == [[False], [True]]


def test_a_deleted_user_leaves_every_set_and_events_received_before_stay_out(store: Store) -> None:
    events = [view("u", "a"), view("v", "a"), {"type": "user_delete", "user_id": "u", "timestamp": NOW}]
    stage = fold(store, [value(event) for event in events] + [value(view("u", "b", 9))])
    assert stage.version == 2  # the deletion opens a version: what it takes back was in the one before
    assert items_of(store, "u") == ["b"]
    assert items_of(store, "v") == ["a"]
    first, second = deltas_of(store)
    assert first.users == [b"u", b"v"]
    assert second.deleted_users == [(b"u", NOW + 2000)]

    class Redelivering(IterableSource):
        def partitions(self) -> list[str]:
            return ["other-0"]

        def seek(self, partition: str, offset: int | None) -> int:  # noqa: ARG002
            return offset or 0

    again = [(NOW, value(view("u", "x"))), (NOW + 2001, value(view("u", "y", 10)))]
    FoldStage(store, Redelivering(again, "other-0")).step()
    assert items_of(store, "u") == ["b", "y"]


def test_events_after_a_deletion_count_though_the_log_stamped_them_alike(store: Store) -> None:
    delete: JsonEvent = {"type": "user_delete", "user_id": "u", "timestamp": NOW}
    values = [value(view("u", "a")), value(delete, view("u", "b", 1)), value(view("u", "c", 2))]
    stage = FoldStage(store, IterableSource([(NOW, data) for data in values]))  # a clock that stands still
    while stage.step().num_messages:
        pass
    assert items_of(store, "u") == ["b", "c"]
    assert totals_of(store) == {("view", "accepted"): 3, ("user_delete", "accepted"): 1}


def test_of_a_user_deleted_within_a_message_the_delta_holds_only_what_came_after(store: Store) -> None:
    delete: JsonEvent = {"type": "user_delete", "user_id": "u", "timestamp": NOW}
    fold(store, [value(view("u", "a"), view("v", "a"), delete)])
    (delta,) = deltas_of(store)
    assert delta.users == [b"v"]
    assert items_of(store, "u") == []


def test_slates_and_impressions_go_into_record_and_delta(store: Store) -> None:
    common: JsonEvent = {"user_id": "u", "timestamp": NOW, "request_id": "r"}
    slate = common | {"type": "slate", "version": 1, "items": ["a"], "sources": ["x"], "propensities": [1.0]}
    fold(store, [value(slate, common | {"type": "impression"})])
    with store.read() as txn:
        record = read_record(txn, store, b"u")
        assert (len(record.slates.rows), len(record.impressions.rows), len(record.sequence.rows)) == (1, 1, 0)
    (delta,) = deltas_of(store)
    assert ([user for user, _ in delta.slates], [user for user, _ in delta.impressions]) == ([b"u"], [b"u"])


def test_a_store_whose_signal_codes_differ_is_refused(store: Store) -> None:
    fold(store, [value(view("u", "a"))])
    with pytest.raises(StoreConfigurationChanged, match="'view'"):
        FoldStage(store, IterableSource([]), SignalTable([Signal("view", 9, 1.0, 1.0)]))


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(1, 9), min_size=1, max_size=5), pack=st.integers(1, 4))
def test_it_does_not_matter_where_commits_are_cut(
    seed: int, cuts: list[int], pack: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    events = random_events(80, seed, num_users=4)
    values = [value(*events[start : start + pack]) for start in range(0, len(events), pack)]
    users = [f"u{number}" for number in range(4)]
    base = tmp_path_factory.mktemp("cuts")
    with Store(base / "whole", "fold", writer=True) as store:
        fold(store, values)
    for cut in cuts * 20:  # a stage for each cut: as if it were killed after every commit
        with Store(base / "cut", "fold", writer=True) as store:
            stage = FoldStage(store, IterableSource(stamped(values)), config=FoldConfig(max_events=cut))
            stage.step()
    with Store(base / "cut", "fold", writer=True) as store:
        fold(store, values)
    assert fold_dump(base / "cut", users) == fold_dump(base / "whole", users)
