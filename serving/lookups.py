# Items and users as the stores hold them.
from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import UNSET

from models.base import Model
from serving.problems import Problem
from serving.schemas import ItemReply, SequenceEntry, UserReply
from serving.steps.sources import number_of
from state.catalogue import read_item
from state.entry import KEY_BYTES, NO_DWELL, NO_POSITION, unpack
from state.home import Home
from state.offsets import get_offsets
from state.record import UserRecord
from state.records import read_record
from state.signals import SignalTable
from state.store import Store, Txn
from stream.entry import to_entry
from stream.event import MAX_ID_BYTES, SignalEvent


def holds_entry(txn: Txn, store: Store, signals: SignalTable) -> Callable[[SignalEvent], bool]:
    """A question to the user's record as of the transaction: is this event in its sequence already?"""
    cursor = txn.cursor(store.db("sequence"))

    def is_known(event: SignalEvent) -> bool:
        key = to_entry(event, lambda _: 0, signals)[:KEY_BYTES]
        return cursor.set_range_dup(event.user_id.encode(), key) and cursor.value().startswith(key)

    return is_known


def item_reply(txn: Txn, store: Store, home: Home[Model], item_id: str) -> ItemReply:
    """An item's document. Raises Problem 404 where it was deleted or never named."""
    number = number_of(home)(item_id)
    item = read_item(txn, store, number)
    if number < 0 or (item is not None and item.deleted):
        raise Problem(404, f"item_id: no item {item_id!r} is known", "item_id")
    if item is None:
        return ItemReply(item_id)
    fields = msgspec.structs.asdict(item)
    del fields["deleted"]
    return ItemReply(**fields)


def user_reply(txn: Txn, store: Store, home: Home[Model], signals: SignalTable, user_id: str) -> UserReply:
    """A user's record, newest first. Raises Problem 404 where there is none."""
    user = user_id.encode()
    record = read_record(txn, store, user) if 0 < len(user) <= MAX_ID_BYTES else UserRecord()
    if not record.sequence.rows and not record.dislikes.rows:
        raise Problem(404, f"user_id: no user {user_id!r} is known", "user_id")

    def name_of(number: int) -> str:
        if home.dictionary is not None and number < home.num_items:
            return home.dictionary.name(number)
        # a number newer than the home's dictionary was written with the record
        return txn.get(number.to_bytes(4, "big"), b"", db=store.db("dictionary")).decode()

    sequence = [_sequence_entry(row, name_of, signals) for row in reversed(record.sequence.rows)]
    disliked = sorted(name_of(number) for number in record.disliked())
    return UserReply(user_id, sequence, disliked, sum(get_offsets(txn, store, "fold").values()))


def _sequence_entry(row: bytes, name_of: Callable[[int], str], signals: SignalTable) -> SequenceEntry:
    entry = unpack(row)
    signal = signals.by_code.get(entry.signal)
    return SequenceEntry(
        name_of(entry.item),
        signal.name if signal else str(entry.signal),
        entry.timestamp,
        UNSET if entry.dwell_ms == NO_DWELL else entry.dwell_ms,
        entry.duration_ms or UNSET,
        UNSET if entry.position == NO_POSITION else entry.position,
        entry.value,
    )
