# The fold stage: events become user records, the catalogue and a delta, one commit at a time.
from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from state.deltas import Delta, DeltaLog, encode
from state.meta import check_signals, get_event_time, get_version, put_event_time, put_version
from state.offsets import add_totals, get_offsets, put_offsets
from state.record import RecordLimits
from state.signals import SignalTable
from state.store import Store
from stream.dead_letters import DeadLetterConfig, DeadLetters
from stream.event import Decoded, EventDecoder, EventLimits, UserDelete
from stream.event_fold import Changes, EventFold
from stream.losses import check_identity, require_nothing_lost
from stream.message import decode_message
from stream.source import EventSource, Message


@dataclass(frozen=True)
class FoldConfig:
    """Settings of the fold stage."""

    max_events: int = 10_000  # of one commit; a message is never split
    max_bytes: int = 4 * 1024 * 1024  # of message values of one commit; keeps its delta below the limit of a message
    cache_users: int = 20_000  # records held in memory
    events: EventLimits = field(default_factory=EventLimits)
    records: RecordLimits = field(default_factory=RecordLimits)
    dead_letters: DeadLetterConfig = field(default_factory=DeadLetterConfig)


@dataclass(frozen=True, slots=True)
class FoldResult:
    """What one step did. `version` is that of its delta; without messages nothing is committed."""

    num_messages: int
    num_events: int  # decoded, whatever became of them
    num_rejected: int
    version: int
    oldest_received_at: int  # of its messages, milliseconds; 0 without any


class FoldStage:
    """Reads an event source and owns a fold store.

    A step is one commit, in this order:

    1. Poll messages; skip those below the stored offset of their partition.
    2. Decode them; what breaks a rule becomes a dead letter and stops nothing.
    3. Fold the events into user records and the catalogue, in memory.
    4. In one transaction write records, dictionary and catalogue,
    5. dead letters, totals and event time,
    6. the offsets read up to,
    7. version n+1 and its delta;
    8. commit. Only now does any of it exist; whatever stops the process before leaves the store at version n, and the
       same messages are read again.

    When `step` raises, drop the stage: open the store anew and go on from what is stored.
    """

    def __init__(
        self, store: Store, source: EventSource, signals: SignalTable | None = None, config: FoldConfig | None = None
    ) -> None:
        self._store, self._source = store, source
        self._signals, self._config = signals or SignalTable(), config or FoldConfig()
        self._decoder = EventDecoder(self._signals, self._config.events)
        self._folded = EventFold(store, self._signals, self._config.records, self._config.cache_users)
        self._deltas, self._letters = DeltaLog(store), DeadLetters(store, self._config.dead_letters)
        with store.write() as txn:
            check_signals(txn, store, self._signals)
            check_identity(txn, store, source.identity())
        with store.read() as txn:
            self.offsets = get_offsets(txn, store)
            self.version = get_version(txn, store, "fold")
            self._event_time = get_event_time(txn, store, "fold")
            require_nothing_lost(txn, store)
        self._begin()
        self._waiting: deque[Message] = deque()  # polled, not yet folded

    def step(self, timeout_seconds: float = 0.0) -> FoldResult:
        """Fold what came and commit it; waits up to the timeout where nothing is there."""
        # 1. Poll.
        if not self._waiting:
            self._waiting.extend(self._source.poll(self._config.max_events, timeout_seconds))
        changes = Changes()
        offsets: dict[str, int] = {}
        received_at, oldest_received_at = 0, 0
        while self._waiting and changes.num_events < self._config.max_events:
            message = self._waiting[0]
            if message.offset < max(self.offsets.get(message.partition, 0), offsets.get(message.partition, 0)):
                self._waiting.popleft()
                continue
            # 2. Decode.
            decoded = decode_message(self._decoder, message)
            if changes.num_messages and self._must_wait(message, decoded, changes):
                break
            # 3. Fold.
            self._folded.fold(self._waiting.popleft(), decoded, changes)
            offsets[message.partition] = message.offset + 1
            received_at = max(received_at, message.received_at)
            if message.received_at:
                oldest_received_at = min(oldest_received_at or message.received_at, message.received_at)
        if changes.num_messages:
            self._commit(changes, offsets, received_at)
        counts = changes.num_messages, changes.num_events, len(changes.letters)
        return FoldResult(*counts, self.version, oldest_received_at)

    def pass_over(self) -> None:
        """Commit how far the source has gone without a message: past marks of transactions, say. Now and then, for an
        offset that stays behind looks like lag, and is one day no longer held."""
        if self._waiting:
            return
        ahead = {name: offset for name, offset in self._source.passed().items() if offset > self.offsets.get(name, 0)}
        if ahead:
            self._put_offsets(ahead)

    def _begin(self) -> None:
        """Seek each partition; where a new one begins is noted: what goes before that is read is lost, and told so."""
        begun = {name: self._source.seek(name, self.offsets.get(name)) for name in self._source.partitions()}
        new = {name: offset for name, offset in begun.items() if name not in self.offsets}
        if new:
            self._put_offsets(new)

    def _put_offsets(self, offsets: dict[str, int]) -> None:
        with self._store.write() as txn:
            put_offsets(txn, self._store, offsets)
        self.offsets = self.offsets | offsets

    def _must_wait(self, message: Message, decoded: Decoded, changes: Changes) -> bool:
        """Whether a message opens the next version: for its size, or because it deletes a user who has entries in
        this one (they were learned or not by where commits are cut, if a delta could take them back)."""
        if changes.num_bytes + len(message.value) > self._config.max_bytes:
            return True
        deleted = {event.user_id.encode() for event in decoded.events if isinstance(event, UserDelete)}
        return bool(deleted) and not deleted.isdisjoint(changes.users)

    def _commit(self, changes: Changes, offsets: dict[str, int], received_at: int) -> None:
        entries = changes.packed()
        if len(entries):
            self._event_time = max(self._event_time, int(entries["timestamp"].max()))
        delta = Delta("fold", self.version + 1, self.offsets | offsets, self._event_time, changes.users, entries)
        delta.slates, delta.impressions = changes.slates, changes.impressions
        delta.items, delta.deleted_users, delta.totals = changes.items, changes.deleted, changes.totals
        data = encode(delta, self._folded.dictionary.name)
        with self._store.write() as txn:
            # 4. Records, dictionary and catalogue.
            self._folded.flush(txn, entries)
            # 5. Dead letters, totals and event time.
            self._letters.append(txn, changes.letters)
            add_totals(txn, self._store, changes.totals)
            put_event_time(txn, self._store, "fold", self._event_time)
            # 6. Offsets.
            put_offsets(txn, self._store, offsets)
            # 7. Version and delta.
            put_version(txn, self._store, "fold", delta.version)
            self._deltas.append(txn, delta.version, data, received_at)
        # 8. Committed.
        self.offsets, self.version = delta.offsets, delta.version
