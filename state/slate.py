# What was shown to a user: slates as served and impressions as seen, each a row of at most 511 bytes.
from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_ITEMS = 60  # of a slate; with these a row has 509 of the 511 bytes LMDB allows for a sorted duplicate
_HEAD = struct.Struct(">QQIQB")  # timestamp, hash, request, version, number of items
_HEAD_BYTES = _HEAD.size


class Slate(NamedTuple):
    """A slate as a server wrote it; items beyond the first MAX_ITEMS are not kept."""

    timestamp: int  # event time, milliseconds
    hash: int  # u64 of the event id
    request: int  # u32 hash of the request id
    version: int  # model version that served it
    items: tuple[int, ...]  # item numbers, first place first
    sources: tuple[int, ...]  # u16 hash of each item's source name, 0 unknown
    propensities: tuple[float, ...]  # chance with which the item was put there, kept as fp16


class Impression(NamedTuple):
    """What a user really saw: items by number, or places of the slate with this request, or (both empty) all of it."""

    timestamp: int  # event time, milliseconds
    hash: int  # u64 of the event id
    request: int  # u32 hash of the request id, 0 none
    items: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()


def pack_slate(slate: Slate) -> bytes:
    """A row whose byte order is (timestamp, hash) order. ValueError where the three tuples differ in length."""
    if not len(slate.items) == len(slate.sources) == len(slate.propensities):
        raise ValueError("a slate needs one source and one propensity for each item")
    num_items = min(len(slate.items), MAX_ITEMS)
    return b"".join(
        (
            _HEAD.pack(slate.timestamp, slate.hash, slate.request, slate.version, num_items),
            np.array(slate.items[:num_items], ">u4").tobytes(),
            np.array(slate.sources[:num_items], ">u2").tobytes(),
            np.array(slate.propensities[:num_items], ">f2").tobytes(),
        )
    )


def unpack_slate(row: bytes) -> Slate:
    """What `pack_slate` packed."""
    timestamp, hash_, request, version, num_items = _HEAD.unpack_from(row)
    items = np.frombuffer(row, ">u4", num_items, _HEAD_BYTES)
    sources = np.frombuffer(row, ">u2", num_items, _HEAD_BYTES + 4 * num_items)
    propensities = np.frombuffer(row, ">f2", num_items, _HEAD_BYTES + 6 * num_items)
    shown = tuple(items.tolist()), tuple(sources.tolist()), tuple(propensities.tolist())
    return Slate(timestamp, hash_, request, version, *shown)


def pack_impression(impression: Impression) -> bytes:
    """A row of the same head as a slate's (version 0), then the items, then the positions to its end."""
    items = np.array(impression.items[:MAX_ITEMS], ">u4")
    positions = np.array(impression.positions[:MAX_ITEMS], ">u2")
    head = _HEAD.pack(impression.timestamp, impression.hash, impression.request, 0, len(items))
    return head + items.tobytes() + positions.tobytes()


def unpack_impression(row: bytes) -> Impression:
    """What `pack_impression` packed."""
    timestamp, hash_, request, _, num_items = _HEAD.unpack_from(row)
    items = np.frombuffer(row, ">u4", num_items, _HEAD_BYTES)
    positions = np.frombuffer(row[_HEAD_BYTES + 4 * num_items :], ">u2")
    return Impression(timestamp, hash_, request, tuple(items.tolist()), tuple(positions.tolist()))


def row_items(row: bytes) -> NDArray[np.uint32]:
    """The item numbers of a slate's or an impression's row, in its order."""
    return np.frombuffer(row, ">u4", row[_HEAD_BYTES - 1], _HEAD_BYTES).astype(np.uint32)


def with_items(row: bytes, items: NDArray[np.integer]) -> bytes:
    """The row with as many other item numbers in the places of its own."""
    return row[:_HEAD_BYTES] + items.astype(">u4").tobytes() + row[_HEAD_BYTES + 4 * len(items) :]
