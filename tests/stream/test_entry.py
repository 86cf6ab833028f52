# Entries: what of an event a record keeps.
from __future__ import annotations

import json

import pytest

from state.entry import NO_DWELL, NO_POSITION, Entry, unpack
from state.signals import SignalTable
from state.slate import unpack_impression, unpack_slate
from stream.entry import short_hash, to_entry, to_impression, to_slate
from stream.event import EventDecoder, Impression, SignalEvent, Slate

NOW = 1_763_649_000_123
SIGNALS = SignalTable()
NUMBERS = {"i9": 4, "a": 0, "b": 1}


def entry_of(**fields: object) -> Entry:
    value = {"type": "view", "user_id": "u1", "item_id": "i9", "timestamp": NOW} | fields
    (event,) = EventDecoder(SIGNALS).decode(json.dumps(value).encode(), NOW).events
    assert isinstance(event, SignalEvent)
    return unpack(to_entry(event, NUMBERS.__getitem__, SIGNALS))


def test_an_entry_holds_numbers_and_hashes_of_what_the_event_said() -> None:
    entry = entry_of(event_id="e", position=3, dwell_ms=5300, duration_ms=9000, session_id="s", request_id="r", value=2)
    view = SIGNALS.by_name["view"].code
    assert entry[0] == NOW
    assert entry[2:] == (4, view, 3, 5300, 9000, short_hash("s"), short_hash("r"), 2.0)


def test_what_an_event_leaves_out_is_marked_as_none() -> None:
    entry = entry_of()
    assert (entry.position, entry.dwell_ms, entry.duration_ms) == (NO_POSITION, NO_DWELL, 0)
    assert (entry.session, entry.request, entry.value) == (0, 0, 1.0)
    assert entry_of(session_id="").session == 0


@pytest.mark.parametrize(
    ("type_", "dwell_ms", "meant"),
    [
        ("view", 1999, "skip"),
        ("view", 0, "skip"),
        ("view", 2000, "view"),
        ("view", None, "view"),
        ("like", 5, "like"),
        ("skip", 9000, "skip"),
    ],
)
def test_a_view_that_dwelt_too_little_is_a_skip(type_: str, dwell_ms: int | None, meant: str) -> None:
    assert entry_of(type=type_, dwell_ms=dwell_ms).signal == SIGNALS.by_name[meant].code


def test_without_an_event_id_the_same_user_item_type_and_time_are_one_event() -> None:
    assert entry_of(dwell_ms=5000).hash == entry_of(dwell_ms=6000).hash
    others = [entry_of(type="like"), entry_of(user_id="u2"), entry_of(item_id="a"), entry_of(timestamp=NOW - 1)]
    assert len({entry.hash for entry in [entry_of(), *others]}) == 5


def test_a_short_hash_is_zero_only_where_there_is_nothing() -> None:
    assert short_hash(None) == short_hash("") == 0
    assert 0 < short_hash("s7") < 2**32


def test_slates_and_impressions_become_rows_that_share_the_request() -> None:
    common = {"user_id": "u", "timestamp": NOW, "request_id": "r"}
    slate = {"type": "slate", "version": 7, "items": ["a", "b"], "sources": ["x", "y"], "propensities": [0.5, 1.0]}
    shown = {"type": "impression", "positions": [1]}
    events = EventDecoder(SIGNALS).decode(json.dumps([common | slate, common | shown]).encode(), NOW).events
    assert isinstance(events[0], Slate)
    assert isinstance(events[1], Impression)
    row = unpack_slate(to_slate(events[0], NUMBERS.__getitem__))
    seen = unpack_impression(to_impression(events[1], NUMBERS.__getitem__))
    assert (row.items, row.version, row.propensities) == ((0, 1), 7, (0.5, 1.0))
    assert row.request == seen.request == short_hash("r")
    assert seen.positions == (1,)
