# The event schema: every rule is enforced, and a bad event is named and stops no other.
from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.signals import SignalTable
from stream.event import (
    EventDecoder,
    EventLimits,
    Impression,
    ItemDelete,
    ItemUpsert,
    Rejected,
    SignalEvent,
    Slate,
    UserDelete,
)

NOW = 1_763_649_000_123
VIEW: dict[str, object] = {"type": "view", "user_id": "u1", "item_id": "i9", "timestamp": NOW}


@pytest.fixture(scope="module")
def decoder() -> EventDecoder:
    return EventDecoder(SignalTable())


def rejection(decoder: EventDecoder, **changes: object) -> Rejected:
    """Why a view with these fields changed (None: removed) is rejected."""
    event = {key: value for key, value in (VIEW | changes).items() if value is not None}
    decoded = decoder.decode(json.dumps(event).encode(), NOW)
    assert decoded.events == []
    (rejected,) = decoded.rejected
    return rejected


def test_a_view_keeps_what_it_said(decoder: EventDecoder) -> None:
    value = json.dumps(VIEW | {"event_id": "e", "dwell_ms": 5300, "position": 3, "session_id": "s7", "extra": [1, {}]})
    (event,) = decoder.decode(value.encode(), NOW).events
    assert isinstance(event, SignalEvent)
    assert (event.kind, event.signal.name, event.user_id, event.item_id, event.at) == ("view", "view", "u1", "i9", NOW)
    assert (event.event_id, event.dwell_ms, event.position, event.session_id) == ("e", 5300, 3, "s7")


def test_every_signal_and_every_other_type_decodes_to_its_kind(decoder: EventDecoder) -> None:
    user: dict[str, object] = {"user_id": "u"}
    item: dict[str, object] = {"item_id": "i"}
    at: dict[str, object] = {"timestamp": NOW}
    slate: dict[str, object] = {
        "request_id": "r",
        "version": 3,
        "items": ["a"],
        "sources": ["blend"],
        "propensities": [0.5],
    }
    events: list[dict[str, object]] = [
        *({"type": name} | user | item | at for name in SignalTable().by_name),
        {"type": "impression", "request_id": "r", "positions": [0, 2]} | user | at,
        {"type": "slate"} | slate | user | at,
        {"type": "item", "categories": ["a"], "features": {"lang": "en"}, "embedding": [0.5]} | item | at,
        {"type": "item_delete"} | item | at,
        {"type": "user_delete"} | user | at,
    ]
    decoded = decoder.decode(json.dumps(events).encode(), NOW)
    assert decoded.rejected == []
    assert [event.kind for event in decoded.events] == [event["type"] for event in events]
    kinds = [type(event) for event in decoded.events[-5:]]
    assert kinds == [Impression, Slate, ItemUpsert, ItemDelete, UserDelete]


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2025-11-20T14:30:00.123Z", 1_763_649_000_123),
        ("2025-11-20T16:30:00.123999+02:00", 1_763_649_000_123),
        ("2000-01-01T00:00:00Z", 946_684_800_000),
    ],
)
def test_a_timestamp_may_be_rfc_3339_with_offset(decoder: EventDecoder, text: str, milliseconds: int) -> None:
    (event,) = decoder.decode(json.dumps(VIEW | {"timestamp": text}).encode(), NOW).events
    assert event.at == event.timestamp == milliseconds


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("timestamp", NOW // 1000, "looks like seconds"),
        ("timestamp", 946_684_799_999, "before 2000"),
        ("timestamp", -1, "before 2000"),
        ("timestamp", NOW + 300_001, "more than 300 s ahead"),
        ("timestamp", 10**30, "more than 300 s ahead"),
        ("timestamp", "2025-11-20T14:30:00", "timezone"),
        ("timestamp", "yesterday", "RFC3339"),
        ("timestamp", 1.5, "got `float`"),
        ("timestamp", True, "got `bool`"),
        ("timestamp", None, "missing"),
        ("type", None, "missing"),
        ("type", "vieuw", "unknown signal 'vieuw'; known are view, skip, like"),
        ("type", 5, "Expected `str`"),
        ("user_id", None, "missing"),
        ("user_id", "", "length >= 1"),
        ("user_id", "x" * 257, "length <= 256"),
        ("user_id", "é" * 129, "258 bytes; at most 256"),
        ("user_id", 7, "got `int`"),
        ("item_id", None, "missing"),
        ("item_id", "𝄞" * 65, "260 bytes; at most 256"),
        ("dwell_ms", -1, ">= 0"),
        ("dwell_ms", 2**32, "<"),
        ("dwell_ms", "5", "got `str`"),
        ("duration_ms", -1, ">= 0"),
        ("position", 65_535, "<"),
        ("value", 1e39, "<="),
        ("value", "much", "got `str`"),
        ("context", "ios", "got `str`"),
        ("session_id", 4, "got `int`"),
    ],
)
def test_a_broken_rule_is_named_with_its_field(decoder: EventDecoder, field: str, value: object, reason: str) -> None:
    rejected = rejection(decoder, **{field: value})
    assert rejected.field == field
    assert reason in rejected.reason


@pytest.mark.parametrize("at", [NOW + 300_000, 946_684_800_000])
def test_the_bounds_of_time_themselves_are_accepted(decoder: EventDecoder, at: int) -> None:
    assert len(decoder.decode(json.dumps(VIEW | {"timestamp": at}).encode(), NOW).events) == 1


@pytest.mark.parametrize("user", ["x" * 256, "é" * 128, "𝄞" * 64, "\0", " "])
def test_any_id_of_up_to_256_bytes_is_kept_as_it_is(decoder: EventDecoder, user: str) -> None:
    (event,) = decoder.decode(json.dumps(VIEW | {"user_id": user}, ensure_ascii=False).encode(), NOW).events
    assert isinstance(event, SignalEvent)
    assert event.user_id == user


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[{},", "not JSON"),
        (b"null", "got `null`"),
        (b"17", "got `int`"),
        (b"[17]", "got `int`"),
        (b'{"type":"view","user_id":"\xff"}', "not UTF-8"),
        (b'{"type":"view","user_id":"\\ud800","item_id":"i","timestamp":1}', "not JSON"),
        (b'{"type":"view","x":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "nested too deep"),
        (b"[" * 30_000, "nested too deep"),
    ],
)
def test_bytes_that_are_no_event_are_rejected(decoder: EventDecoder, value: bytes, reason: str) -> None:
    (rejected,) = decoder.decode(value, NOW).rejected
    assert reason in rejected.reason
    assert rejected.raw in value


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(alphabet='{}[]",:e1u \\', max_size=80).map(str.encode))
def test_no_bytes_at_all_raise(value: bytes) -> None:
    decoded = EventDecoder(SignalTable()).decode(value, NOW)
    assert not decoded.events
    assert decoded.rejected or value.strip() in (b"[]",) or value.replace(b" ", b"") == b"[]"


def test_bad_events_of_an_array_are_named_by_index_and_the_rest_is_kept(decoder: EventDecoder) -> None:
    events = [VIEW | {"item_id": str(place)} for place in range(5)]
    events[1] = events[1] | {"type": "vieuw"}
    events[3] = events[3] | {"timestamp": 12}
    decoded = decoder.decode(json.dumps(events).encode(), NOW)
    assert [getattr(event, "item_id", "") for event in decoded.events] == ["0", "2", "4"]
    assert [(rejected.index, rejected.field) for rejected in decoded.rejected] == [(1, "type"), (3, "timestamp")]
    assert json.loads(decoded.rejected[0].raw) == events[1]


def test_an_event_over_64_kib_is_rejected_and_its_neighbours_are_kept(decoder: EventDecoder) -> None:
    limit = EventLimits().max_event_bytes
    room = limit - len(json.dumps(VIEW | {"pad": ""}))
    fits, over = VIEW | {"pad": "x" * room}, VIEW | {"pad": "x" * (room + 1)}
    decoded = decoder.decode(json.dumps([VIEW, over, fits]).encode(), NOW)
    assert len(decoded.events) == 2
    assert [(rejected.index, rejected.reason) for rejected in decoded.rejected] == [
        (1, "event of 65537 bytes; at most 65536 are allowed")
    ]
    assert len(decoded.rejected[0].raw) == limit


def test_ten_thousand_events_in_one_value_are_decoded(decoder: EventDecoder) -> None:
    value = b"[" + b",".join([json.dumps(VIEW).encode()] * 10_000) + b"]"
    assert len(decoder.decode(value, NOW).events) == 10_000


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ({"type": "impression", "user_id": "u", "timestamp": NOW}, "request_id"),
        ({"type": "impression", "user_id": "u", "timestamp": NOW, "items": ["ok", ""]}, "items[1]"),
        (
            {"type": "slate", "user_id": "u", "timestamp": NOW, "request_id": "r", "version": 1}
            | {"items": ["a", "b"], "sources": ["x"], "propensities": [1, 1]},
            "sources",
        ),
        ({"type": "item", "item_id": "i", "timestamp": NOW, "available": "yes"}, "available"),
        ({"type": "item", "timestamp": NOW}, "item_id"),
        ({"type": "user_delete", "timestamp": NOW}, "user_id"),
    ],
)
def test_the_other_types_are_checked_too(decoder: EventDecoder, event: dict[str, object], field: str) -> None:
    (rejected,) = decoder.decode(json.dumps(event).encode(), NOW).rejected
    assert rejected.field == field
