# Events into user records and the catalogue, in memory: what the fold stage then commits.
from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from state.catalogue import Catalogue, CatalogueItem
from state.dictionary import Dictionary
from state.entry import ENTRY
from state.record import BoundedSet, Outcome, RecordLimits
from state.records import Records
from state.signals import SignalTable
from state.store import Store, Txn
from stream.dead_letters import DeadLetter, to_letter
from stream.entry import to_entry, to_impression, to_slate
from stream.event import (
    Decoded,
    Event,
    Impression,
    ItemDelete,
    ItemUpsert,
    SignalEvent,
    Slate,
    UserDelete,
    UserExpiry,
    milliseconds,
)
from stream.source import Message

ACCEPTED = "accepted"
INVALID = "invalid"  # stands for the type of an event that could not be decoded


@dataclass(slots=True)
class Changes:
    """What a step has folded and not yet committed."""

    users: list[bytes] = field(default_factory=list)  # of each entry
    entries: list[bytes] = field(default_factory=list)
    slates: list[tuple[bytes, bytes]] = field(default_factory=list)
    impressions: list[tuple[bytes, bytes]] = field(default_factory=list)
    items: list[CatalogueItem] = field(default_factory=list)
    deleted: list[tuple[bytes, int]] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    totals: Counter[tuple[str, str]] = field(default_factory=Counter)
    num_messages: int = 0
    num_events: int = 0
    num_bytes: int = 0

    def packed(self) -> NDArray[np.void]:
        """[N] ENTRY, the entries in the order folded."""
        return np.frombuffer(b"".join(self.entries), ENTRY)

    def drop(self, user: bytes) -> None:
        """Take back what came from a user who is deleted now."""
        kept = [place for place, other in enumerate(self.users) if other != user]
        self.entries = [self.entries[place] for place in kept]
        self.users = [self.users[place] for place in kept]
        self.slates = [pair for pair in self.slates if pair[0] != user]
        self.impressions = [pair for pair in self.impressions if pair[0] != user]


class EventFold:
    """Records, catalogue and dictionary of a fold store, and the rules by which events change them."""

    def __init__(self, store: Store, signals: SignalTable, limits: RecordLimits, cache_users: int) -> None:
        self._signals = signals
        self._records = Records(store, limits, cache_users)
        self.dictionary = Dictionary(store)
        self._catalogue = Catalogue(store, self.dictionary)

    def fold(self, message: Message, decoded: Decoded, changes: Changes) -> None:
        """Fold a message's events, in memory, and note in `changes` what came of them."""
        changes.num_messages += 1
        changes.num_events += len(decoded.events) + len(decoded.rejected)
        changes.num_bytes += len(message.value)
        for event in decoded.events:
            if isinstance(event, SignalEvent):
                outcome = self._fold_signal(event, message.received_at, changes)
            else:
                outcome = self._fold_other(event, message.received_at, changes)
            changes.totals[event.kind, outcome] += 1
        for rejected in decoded.rejected:
            changes.letters.append(to_letter(message, rejected))
            changes.totals[INVALID, "rejected"] += 1

    def flush(self, txn: Txn, entries: NDArray[np.void]) -> None:
        """Write all that changed; `entries` ([N] ENTRY) are those of the changes."""
        self._catalogue.saw(entries["item"], entries["timestamp"])
        self._catalogue.flush(txn)
        self.dictionary.flush(txn)
        self._records.flush(txn)

    def _fold_signal(self, event: SignalEvent, received_at: int, changes: Changes) -> str:
        user = event.user_id.encode()
        record = self._records.get(user)
        if received_at < record.forgotten_at:
            return "late"
        entry = to_entry(event, self.dictionary.number, self._signals)
        outcome = record.fold(entry, self._signals)
        # What is late for the sequence may be seen or disliked yet; a true repeat changes nothing.
        if outcome is not Outcome.DUPLICATE or not _is_repeat(record.sequence, entry):
            changes.users.append(user)
            changes.entries.append(entry)
        return ACCEPTED if outcome is Outcome.NEW else outcome.value

    def _fold_other(self, event: Event, received_at: int, changes: Changes) -> str:
        if isinstance(event, ItemUpsert | ItemDelete):
            item = _catalogue_item(event)
            if not self._catalogue.upsert(item):
                return "duplicate"
            changes.items.append(item)
        elif isinstance(event, UserDelete):
            user = event.user_id.encode()
            if isinstance(event, UserExpiry):  # keeps nothing out that comes later: no tombstone
                if self._records.get(user).newest_timestamp() > event.at:
                    return "late"
                received_at = 0
            self._records.forget(user, received_at)
            changes.drop(user)
            changes.deleted.append((user, received_at))
        elif isinstance(event, Slate | Impression):
            return self._fold_shown(event, received_at, changes)
        else:
            raise AssertionError(f"no rule to fold {event.kind!r} events")
        return ACCEPTED

    def _fold_shown(self, event: Slate | Impression, received_at: int, changes: Changes) -> str:
        user = event.user_id.encode()
        record = self._records.get(user)
        if received_at < record.forgotten_at:
            return "late"
        if isinstance(event, Slate):
            row = to_slate(event, self.dictionary.number)
            record.fold_slate(row)
            changes.slates.append((user, row))
        else:
            row = to_impression(event, self.dictionary.number)
            record.fold_impression(row)
            changes.impressions.append((user, row))
        return ACCEPTED


def _is_repeat(sequence: BoundedSet, entry: bytes) -> bool:
    """Whether a duplicate is the very entry that was there, not another that claims the same id and time."""
    rows = sequence.rows
    place = bisect_left(rows, entry)
    return place < len(rows) and rows[place] == entry and entry not in sequence.changes


def _catalogue_item(event: ItemUpsert | ItemDelete) -> CatalogueItem:
    if isinstance(event, ItemDelete):
        return CatalogueItem(event.item_id, event.at, deleted=True)
    return CatalogueItem(
        event.item_id,
        event.at,
        event.title,
        event.categories,
        event.tags,
        milliseconds(event.published_at or 0),
        event.duration_ms or 0,
        event.available,
        event.features,
        event.embedding or [],
    )
