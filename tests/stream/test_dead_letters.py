# What a dead letter keeps of its message: the bytes that came, key and headers, all of it bounded.
from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from state.signals import SignalTable
from state.store import Store
from stream.dead_letters import DeadLetter, DeadLetterConfig, DeadLetters, Header, read_dead_letters, to_letter
from stream.event import EventDecoder
from stream.message import decode_message
from stream.source import Message
from tests.stream.helpers import NOW

SECONDS = b'{"type":"view","item_id":"i","timestamp":1763649000}'  # and no user_id: the key stands for it


def letter_of(
    value: bytes,
    key: bytes | None = None,
    is_of_items: bool = False,
    fault: str = "",
    headers: tuple[Header, ...] = (),
) -> DeadLetter:
    """The only letter that a message becomes."""
    message = Message("events-0", 7, NOW, value, key, is_of_items, fault, headers)
    (rejected,) = decode_message(EventDecoder(SignalTable()), message).rejected
    return to_letter(message, rejected)


@pytest.mark.parametrize(
    ("value", "key", "is_of_items", "field"),
    [
        (SECONDS, b"u1", False, "timestamp"),
        (SECONDS, b"\xff", False, "user_id"),
        (b'{"type":"item","timestamp":1}', b"i1", True, "timestamp"),
        (b"", b"i" * 300, True, "item_id"),
        (b'{"type":"undo","item_id":"i"}', None, False, "timestamp"),
    ],
)
def test_a_letter_has_the_bytes_that_came_also_where_the_key_stood_for_an_id(
    value: bytes, key: bytes | None, is_of_items: bool, field: str
) -> None:
    letter = letter_of(value, key, is_of_items)
    assert (letter.raw, letter.key, letter.field, letter.is_cut) == (value, key, field, False)


def test_a_letter_has_the_headers_of_its_message() -> None:
    headers = (("trace", b"\xff\x00"), ("trace", b"again"), ("empty", None))
    assert letter_of(SECONDS, headers=headers).headers == headers


@pytest.mark.parametrize("fault", ["", "a stamp that is not the log's"])
def test_an_event_that_is_too_large_is_kept_in_part_and_said_to_be(fault: str) -> None:
    letter = letter_of(b'"' + b"x" * 65_535, fault=fault)
    assert (len(letter.raw), letter.is_cut) == (65_536, False)
    letter = letter_of(b'"' + b"x" * 65_536, fault=fault)
    assert (len(letter.raw), letter.is_cut) == (65_536, True)


def test_so_are_a_key_and_headers_that_are_too_large() -> None:
    letter = letter_of(SECONDS, b"k" * 1_024, headers=(("a", b"x" * 4_095),))
    assert (letter.key, len(letter.headers), letter.is_cut) == (b"k" * 1_024, 1, False)
    assert letter_of(SECONDS, b"k" * 1_025).is_cut
    letter = letter_of(SECONDS, b"k", headers=(("a", b"x" * 2_048), ("b", b"y" * 2_048)))
    assert (letter.headers, letter.is_cut) == ((), True)


def test_letters_without_a_stamp_stay_until_a_later_one_is_past_retention(tmp_path: Path) -> None:
    with Store(tmp_path / "fold", "fold", writer=True) as store:
        letters = DeadLetters(store, DeadLetterConfig(retention_ms=1_000))
        for place, (stamp, kept) in enumerate([(0, 1), (0, 2), (NOW, 3), (NOW + 1_000, 4), (0, 5), (NOW + 1_001, 3)]):
            with store.write() as txn:
                letters.append(txn, [DeadLetter("events-0", place, 0, "", "", b"x", stamp)])
            with store.read() as txn:
                assert len(list(read_dead_letters(txn, store))) == kept


def test_a_letter_of_an_earlier_version_is_read() -> None:
    before = {
        "partition": "events-0",
        "offset": 1,
        "index": 0,
        "field": "",
        "reason": "r",
        "raw": b"x",
        "received_at": 2,
    }
    letter = msgspec.msgpack.decode(msgspec.msgpack.encode(before), type=DeadLetter)
    assert (letter.identity, letter.key, letter.headers, letter.is_cut) == ("events-0-1-0", None, (), False)
