# Stores with many users and items, built in bulk for the benchmarks that need them: sorted appends, no folding.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from state.dictionary import Dictionary
from state.entry import ENTRY, ENTRY_BYTES, NO_DWELL, NO_POSITION
from state.store import Store

START_MS = 1_763_649_000_000  # the built entries lie before it, what is folded later at it or after
_VIEW = 1  # code of the signal
_CHUNK_ROWS = 2_000_000  # of one transaction: bounds memory
_encode = msgspec.json.Encoder().encode


def user_id(number: int) -> str:
    """The name of a user; byte order is number order below ten million."""
    return f"user-{number:07d}"


def item_id(number: int) -> str:
    """The name of an item."""
    return f"item-{number}"


def draw_entries(num_entries: int, num_items: int, rng: np.random.Generator) -> NDArray[np.void]:
    """[num_entries] ENTRY, views of uniformly drawn items, a minute apart, the last one before START_MS."""
    entries = np.zeros(num_entries, ENTRY)
    entries["timestamp"] = START_MS - 60_000 * np.arange(num_entries, 0, -1)
    entries["hash"] = rng.integers(1, 2**63, num_entries)
    entries["item"] = rng.integers(0, num_items, num_entries)
    entries["signal"], entries["position"], entries["dwell_ms"] = _VIEW, NO_POSITION, NO_DWELL
    entries["value"] = 1.0
    return entries


def fill_records(store: Store, num_users: int, num_entries: int, num_items: int, rng: np.random.Generator) -> None:
    """Give users 0 … num_users - 1 of a new store `num_entries` entries each, all users at the same event times, of
    items 0 … num_items - 1, which the dictionary gets too."""
    dictionary = Dictionary(store)
    for number in range(num_items):
        dictionary.number(item_id(number))
    with store.write() as txn:
        dictionary.flush(txn)
    step = max(1, _CHUNK_ROWS // num_entries)
    template = draw_entries(num_entries, num_items, rng)
    for start in range(0, num_users, step):
        users = range(start, min(start + step, num_users))
        rows = np.tile(template, len(users))
        rows["item"] = rng.integers(0, num_items, len(rows))
        rows["hash"] = rng.integers(1, 2**63, len(rows))
        with store.write() as txn:
            txn.cursor(store.db("sequence")).putmulti(_pairs(users, rows.tobytes(), num_entries), append=True)


def _pairs(users: range, blob: bytes, num_entries: int) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    for number in users:
        key = user_id(number).encode()
        for end in range(at + ENTRY_BYTES, at + num_entries * ENTRY_BYTES + 1, ENTRY_BYTES):
            yield key, blob[end - ENTRY_BYTES : end]
        at += num_entries * ENTRY_BYTES


def event_values(
    users: NDArray[np.int64], items: NDArray[np.int64], start_ms: int, step_ms: float = 1.0
) -> list[tuple[int, bytes]]:
    """(event time, JSON) of a view of each item by each user ([N] both), from `start_ms` on in order of time."""
    values = []
    for place, (user, item) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
        at = start_ms + int(place * step_ms)
        event = {
            "event_id": f"e-{start_ms}-{place}",
            "type": "view",
            "user_id": user_id(user),
            "item_id": item_id(item),
            "timestamp": at,
            "dwell_ms": 5300,
            "session_id": f"s-{user}",
        }
        values.append((at, _encode(event)))
    return values


def zipf_users(num_users: int, num_draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """[num_draws] users drawn by Zipf's law with exponent 1; who is popular has nothing to do with the name."""
    shares = np.cumsum(1.0 / np.arange(1, num_users + 1))
    ranks = np.searchsorted(shares, rng.random(num_draws) * shares[-1])
    users: NDArray[np.int64] = rng.permutation(num_users)[ranks]
    return users


def store_bytes(path: Path) -> int:
    """Bytes of a store's file."""
    return (path / "data.mdb").stat().st_size
