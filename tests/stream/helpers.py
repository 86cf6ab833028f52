# What several stream tests need: events as JSON, a fold of them, and a store's contents as comparable bytes.
from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from state.catalogue import CatalogueItem, read_items
from state.deltas import Delta, DeltaLog, decode
from state.dictionary import Dictionary
from state.offsets import get_offsets, get_totals
from state.record import SETS
from state.records import read_record
from state.slate import unpack_impression, unpack_slate
from state.store import Store
from stream.dead_letters import read_dead_letters
from stream.fold import FoldConfig, FoldStage
from stream.source import IterableSource

NOW = 1_763_649_000_000

JsonEvent = dict[str, object]


def view(user: str, item: str, at: int = 0, **fields: object) -> JsonEvent:
    """A view `at` milliseconds after NOW."""
    return {"type": "view", "user_id": user, "item_id": item, "timestamp": NOW + at} | fields


def value(*events: JsonEvent) -> bytes:
    """One value of the log: the event alone, or an array of several."""
    return json.dumps(list(events) if len(events) > 1 else events[0]).encode()


def stamped(values: Iterable[bytes]) -> list[tuple[int, bytes]]:
    """The values as a source takes them, stamped a second apart."""
    return [(NOW + 1000 * place, data) for place, data in enumerate(values)]


def fold(store: Store, values: Iterable[bytes], config: FoldConfig | None = None) -> FoldStage:
    """A stage that has folded all values, from the offset the store stands at."""
    stage = FoldStage(store, IterableSource(stamped(values)), config=config)
    while stage.step().num_messages:
        pass
    return stage


def random_events(
    num_events: int, seed: int | Sequence[int] = 0, num_users: int = 20, num_items: int = 50
) -> list[JsonEvent]:
    """Events of all kinds in a drawn order: repeats, late ones, bad ones, catalogue and deletions among them."""
    rng = np.random.default_rng(seed)
    events: list[JsonEvent] = []
    for number in range(num_events):
        user, item = f"u{rng.integers(num_users)}", f"i{rng.integers(num_items)}"
        at = int(1000 * number - rng.exponential(20_000))
        luck = rng.random()
        if luck < 0.05 and events:
            events.append(events[int(rng.integers(len(events)))])
        elif luck < 0.07:
            events.append({"type": "vieuw", "user_id": user, "timestamp": NOW})
        elif luck < 0.10:
            events.append({"type": "item", "item_id": item, "timestamp": NOW + at, "title": f"title {number}"})
        elif luck < 0.11:
            events.append({"type": "item_delete", "item_id": item, "timestamp": NOW + at})
        elif luck < 0.12:
            events.append({"type": "user_delete", "user_id": user, "timestamp": NOW + at})
        elif luck < 0.15:
            shown = {"request_id": f"r{number}", "version": 1, "items": [item], "sources": ["x"], "propensities": [1]}
            events.append({"type": "slate", "user_id": user, "timestamp": NOW + at} | shown)
        else:
            type_ = ("view", "skip", "like", "dislike", "undo")[int(rng.integers(5))]
            events.append(view(user, item, at, type=type_, event_id=f"e{number}", dwell_ms=int(rng.integers(9000))))
    return events


def fold_dump(path: Path, users: Sequence[str]) -> dict[str, object]:
    """All that a fold store's tables say, in a form to compare: independent of where commits were cut."""
    with Store(path, "fold") as store, store.read() as txn:
        return {
            "records": {user: read_record(txn, store, user.encode()).encode() for user in users},
            "dictionary": [Dictionary(store).name(number) for number in range(len(Dictionary(store)))],
            "catalogue": read_items(txn, store),
            "offsets": get_offsets(txn, store),
            "totals": get_totals(txn, store),
        }


def deltas_of(store: Store) -> list[Delta]:
    """The fold store's deltas, with its own item numbers."""
    with store.read() as txn:
        return [decode(data, Dictionary(store).find) for _, data in DeltaLog(store, "fold").read(txn, 0)]


def catalogue_of(store: Store) -> dict[str, CatalogueItem]:
    """The catalogue by item_id."""
    with store.read() as txn:
        return {item.item_id: item for item in read_items(txn, store).values()}


def named_dump(store: Store) -> dict[str, object]:
    """All that a fold store says, by item_id and not by its own numbers: these depend on how partitions were read."""
    txn = store.begin_read_whole()
    try:
        names = [name.decode() for _, name in txn.cursor(store.db("dictionary"))]
        rows = {
            name: sorted((user, *_named(name, row, names)) for user, row in txn.cursor(store.db(name))) for name in SETS
        }
        first_seen = {
            names[int.from_bytes(number, "big")]: int.from_bytes(at, "big")
            for number, at in txn.cursor(store.db("first_seen"))
        }
        return {
            **rows,
            "catalogue": {item.item_id: item for item in read_items(txn, store).values()},
            "first_seen": first_seen,
            "tombstones": list(txn.cursor(store.db("tombstones"))),
            "offsets": get_offsets(txn, store),
            "totals": get_totals(txn, store),
            "dead letters": sorted(map(repr, read_dead_letters(txn, store))),
        }
    finally:
        store.end_read(txn)


def _named(name: str, row: bytes, names: Sequence[str]) -> tuple[object, ...]:
    if name == "slates":
        slate = unpack_slate(row)
        return (*slate._replace(items=()), [names[item] for item in slate.items])
    if name == "impressions":
        impression = unpack_impression(row)
        return (*impression._replace(items=()), [names[item] for item in impression.items])
    start = 8 if name == "seen" else 16
    return row[:start], names[int.from_bytes(row[start : start + 4], "big")], row[start + 4 :]
