# How far each log is read, and how many events there were of each type and outcome.
from __future__ import annotations

from collections.abc import Mapping

from state.store import Stage, Store, Txn

LEARNED = "learned"  # an outcome in a learn store; all others are a fold's


def get_offsets(txn: Txn, store: Store, stage: Stage | None = None) -> dict[str, int]:
    """Partition → offset of the next message to read, of the store's stage or (in a follower's) of the one named."""
    prefix, offsets, cursor = _prefix(store, stage), {}, txn.cursor(store.db("offsets"))
    found = cursor.set_range(prefix)
    while found and cursor.key().startswith(prefix):
        offsets[cursor.key()[len(prefix) :].decode()] = int.from_bytes(cursor.value(), "big")
        found = cursor.next()
    return offsets


def put_offsets(txn: Txn, store: Store, offsets: Mapping[str, int], stage: Stage | None = None) -> None:
    """Move these partitions to the next message to read; others stay."""
    for partition, offset in sorted(offsets.items()):
        txn.put(_prefix(store, stage) + partition.encode(), offset.to_bytes(8, "big"), db=store.db("offsets"))


def put_further(txn: Txn, store: Store, offsets: Mapping[str, int], stage: Stage) -> None:
    """Move partitions ahead, never back: of one that several folds read, each tells how far it is."""
    before = get_offsets(txn, store, stage)
    put_offsets(txn, store, {name: max(offset, before.get(name, 0)) for name, offset in offsets.items()}, stage)


def _prefix(store: Store, stage: Stage | None) -> bytes:
    return f"{stage or store.stage}\0".encode()


def get_totals(txn: Txn, store: Store) -> dict[tuple[str, str], int]:
    """(event type, outcome) → how many events there were."""
    totals = {}
    for key, value in txn.cursor(store.db("totals")):
        kind, outcome = key.decode().split("\0")
        totals[kind, outcome] = int.from_bytes(value, "big")
    return totals


def own_totals(totals: Mapping[tuple[str, str], int], is_first: bool) -> dict[tuple[str, str], int]:
    """What counts of a fold where all are added up: items' events are read by each, and count as the first one's."""
    return {key: count for key, count in totals.items() if is_first or not key[0].startswith("item")}


def add_totals(txn: Txn, store: Store, counts: Mapping[tuple[str, str], int]) -> None:
    """Add to the totals of these types and outcomes (neither may hold a NUL)."""
    for (kind, outcome), count in sorted(counts.items()):
        key = f"{kind}\0{outcome}".encode()
        before = int.from_bytes(txn.get(key, b"", db=store.db("totals")), "big")
        txn.put(key, (before + count).to_bytes(8, "big"), db=store.db("totals"))
