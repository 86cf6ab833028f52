# An entry: a signal event folded into 44 bytes whose byte order is (timestamp, hash) order.
from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

ENTRY_BYTES = 44
KEY_BYTES = 16  # timestamp and hash: what makes an entry distinct
NO_POSITION = 0xFFFF
NO_DWELL = 0xFFFFFFFF

_STRUCT = struct.Struct(">QQIBxHIIIIf")
ITEM_OFFSET, SIGNAL_OFFSET = 16, 20

# np.frombuffer(rows, ENTRY) reads packed entries without copying. The pad byte is a field: numpy copies fields alone.
_FIELDS = "timestamp hash item signal pad position dwell_ms duration_ms session request value"
_FORMATS = [">u8", ">u8", ">u4", "u1", "u1", ">u2", ">u4", ">u4", ">u4", ">u4", ">f4"]
ENTRY = np.dtype(list(zip(_FIELDS.split(), _FORMATS, strict=True)))


class Entry(NamedTuple):
    """A signal event of one user, as records and deltas hold it."""

    timestamp: int  # event time, milliseconds
    hash: int  # u64 of the event id; ties of one millisecond are ordered by it
    item: int  # number in the dictionary of the store that holds the entry
    signal: int  # code
    position: int = NO_POSITION  # place in the slate, 0 the first
    dwell_ms: int = NO_DWELL
    duration_ms: int = 0  # length of the item, 0 unknown
    session: int = 0  # u32 hash of the session id, 0 none
    request: int = 0  # u32 hash of the request id, 0 none
    value: float = 0.0


pack_fields = _STRUCT.pack  # an entry's fields in their order, all given: without the tuple, where each event counts


def pack(entry: Entry) -> bytes:
    """The 44 bytes of an entry; struct.error where a number does not fit its field."""
    return _STRUCT.pack(*entry)


def unpack(row: bytes) -> Entry:
    """What `pack` packed."""
    return Entry(*_STRUCT.unpack(row))
