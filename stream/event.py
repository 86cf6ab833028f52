# The event schema: JSON bytes become typed events, and what breaks a rule is named with its field.
from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, ClassVar, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct

from state.signals import Signal, SignalTable
from stream.event_errors import explain

MAX_ID_BYTES = 256  # of UTF-8; a user id is an LMDB key, which may hold 511 bytes
_SHORT_ID = MAX_ID_BYTES // 4  # so many characters are at most MAX_ID_BYTES: no need to encode them
YEAR_2000_MS = 946_684_800_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_ARRAY = re.compile(rb"[ \t\r\n]*\[")

Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES)]
Time: TypeAlias = int | Annotated[datetime, Meta(tz=True)]  # milliseconds, or RFC 3339 with offset; int once decoded
U32: TypeAlias = Annotated[int, Meta(ge=0, lt=0xFFFFFFFF)]
Position: TypeAlias = Annotated[int, Meta(ge=0, lt=0xFFFF)]
Exact: TypeAlias = Annotated[int, Meta(ge=-(2**53), le=2**53)]  # what every JSON reader and the stores can hold
Float32: TypeAlias = Annotated[float, Meta(ge=-3e38, le=3e38)]


class Event(Struct, kw_only=True, gc=False):
    """What every event has. `kind` is its type's name on the wire.

    Events hold no cycles, and thousands of them are alive at a time: the collector need not look at them.
    """

    kind: ClassVar[str] = ""
    timestamp: Time

    @property
    def at(self) -> int:
        """Event time in milliseconds."""
        return milliseconds(self.timestamp)

    def ids(self) -> Iterable[tuple[str, str]]:
        """(field, id) for every outside id the event carries."""
        raise NotImplementedError

    @property
    def key(self) -> str:
        """Whose it is: a user_id, or the item_id of a change of the catalogue."""
        return next(iter(self.ids()))[1]

    def fault(self) -> tuple[str, str] | None:
        """(field, reason) where fields contradict each other, else None."""
        return None


class SignalEvent(Event, kw_only=True):
    """A user did something with an item; one subclass for each signal of the table."""

    signal: ClassVar[Signal]
    user_id: Id
    item_id: Id
    event_id: Id | None = None
    dwell_ms: U32 | None = None
    duration_ms: U32 | None = None
    session_id: str | None = None
    request_id: str | None = None
    position: Position | None = None
    value: Float32 = 1.0
    context: dict[str, Raw] | None = None

    def ids(self) -> Iterable[tuple[str, str]]:
        return ("user_id", self.user_id), ("item_id", self.item_id)


class Impression(Event, kw_only=True, tag_field="type", tag="impression"):
    """What a user really saw of a slate (`positions`; all of it without), or `items` by name."""

    kind: ClassVar[str] = "impression"
    user_id: Id
    event_id: Id | None = None
    request_id: Id | None = None
    positions: list[Position] | None = None
    items: list[Id] | None = None

    def ids(self) -> Iterable[tuple[str, str]]:
        return [("user_id", self.user_id), *(("items", item) for item in self.items or ())]

    def fault(self) -> tuple[str, str] | None:
        if self.request_id is None and not self.items:
            return "request_id", "an impression needs request_id or items"
        return None


class Slate(Event, kw_only=True, tag_field="type", tag="slate"):
    """What a server answered: items in order, with the source and the propensity of each."""

    kind: ClassVar[str] = "slate"
    user_id: Id
    request_id: Id
    version: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    items: list[Id]
    sources: list[str]
    propensities: list[Float32]

    def ids(self) -> Iterable[tuple[str, str]]:
        return [("user_id", self.user_id), *(("items", item) for item in self.items)]

    def fault(self) -> tuple[str, str] | None:
        for field in ("sources", "propensities"):
            if len(getattr(self, field)) != len(self.items):
                return field, f"has {len(getattr(self, field))} values for {len(self.items)} items"
        return None


class ItemUpsert(Event, kw_only=True, tag_field="type", tag="item"):
    """The catalogue's newest knowledge of an item."""

    kind: ClassVar[str] = "item"
    item_id: Id
    title: str = ""
    categories: list[str] = []
    tags: list[str] = []
    published_at: Exact | Annotated[datetime, Meta(tz=True)] | None = None
    duration_ms: U32 | None = None
    available: bool = True
    features: dict[str, str | Exact | float | bool] = {}
    embedding: list[Float32] | None = None

    def ids(self) -> Iterable[tuple[str, str]]:
        return (("item_id", self.item_id),)


class ItemDelete(Event, kw_only=True, tag_field="type", tag="item_delete"):
    """The item leaves the catalogue."""

    kind: ClassVar[str] = "item_delete"
    item_id: Id

    def ids(self) -> Iterable[tuple[str, str]]:
        return (("item_id", self.item_id),)


class UserDelete(Event, kw_only=True, tag_field="type", tag="user_delete"):
    """The user's record and rows leave every store."""

    kind: ClassVar[str] = "user_delete"
    user_id: Id

    def ids(self) -> Iterable[tuple[str, str]]:
        return (("user_id", self.user_id),)


class UserExpiry(UserDelete, kw_only=True, tag_field="type", tag="user_expiry"):
    """The user's record leaves every store if nothing in it is newer than `timestamp`; stream/expiry.py writes it."""

    kind: ClassVar[str] = "user_expiry"


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event that broke a rule: its index in the array, the field (or empty), why, and its bytes (of one that is too
    large its begin)."""

    index: int
    field: str
    reason: str
    raw: bytes
    is_cut: bool = False


class Decoded(NamedTuple):
    """The good events in order, and the others."""

    events: list[Event]
    rejected: list[Rejected]


@dataclass(frozen=True)
class EventLimits:
    """Bounds on what is accepted."""

    max_event_bytes: int = 65_536
    max_ahead_ms: int = 300_000  # of the log's stamp: clocks of phones differ

    def cut(self, rejected: Rejected) -> Rejected:
        """With no more of its bytes than an event may have."""
        if len(rejected.raw) <= self.max_event_bytes:
            return rejected
        return replace(rejected, raw=rejected.raw[: self.max_event_bytes], is_cut=True)


class EventDecoder:
    """Decodes log values and HTTP bodies; one for each signal table.

    The whole array is decoded in one call (0.3 us an event); only where that fails each event is decoded alone, so
    that the bad one is named and the rest goes on.
    """

    def __init__(self, signals: SignalTable, limits: EventLimits | None = None) -> None:
        kinds: list[type[Event]] = [_signal_class(signal) for signal in signals.by_name.values()]
        kinds += [Impression, Slate, ItemUpsert, ItemDelete, UserDelete, UserExpiry]
        union = kinds[0]
        for kind in kinds[1:]:
            union = union | kind  # type: ignore[assignment]
        self.limits = limits or EventLimits()
        self._names = ", ".join([*signals.by_name, *(kind.kind for kind in kinds[-6:])])
        self._one: msgspec.json.Decoder[Event] = msgspec.json.Decoder(union)
        self._many: msgspec.json.Decoder[list[Event]] = msgspec.json.Decoder(list[union])  # type: ignore[valid-type]
        self._raws = msgspec.json.Decoder(list[Raw])

    def decode(self, value: bytes, received_at: int) -> Decoded:
        """The events of `value` (one event or a JSON array of events), judged against `received_at`, the log's stamp
        in milliseconds. Never raises for what the bytes hold."""
        if len(value) <= self.limits.max_event_bytes:
            try:
                events = self._many.decode(value) if _ARRAY.match(value) else [self._one.decode(value)]
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return self._decode_each(value, received_at)
            if self._are_sound(events, received_at):
                return Decoded(events, [])
        return self._decode_each(value, received_at)

    def elements(self, value: bytes) -> list[bytes]:
        """The raw events of a value that decodes."""
        return [bytes(raw) for raw in self._raws.decode(value)] if _ARRAY.match(value) else [value]

    def _are_sound(self, events: list[Event], received_at: int) -> bool:
        """Whether no event breaks a rule. What nearly all events are is seen here; `_fault` has the rules."""
        latest = received_at + self.limits.max_ahead_ms
        for event in events:
            at = event.timestamp
            is_usual = (
                isinstance(event, SignalEvent)
                and isinstance(at, int)
                and YEAR_2000_MS <= at <= latest
                and len(event.user_id) <= _SHORT_ID
                and len(event.item_id) <= _SHORT_ID
            )
            if not is_usual and self._fault(event, received_at) is not None:
                return False
        return True

    def _decode_each(self, value: bytes, received_at: int) -> Decoded:
        try:
            raws = self.elements(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Decoded([], [self._rejected(0, *explain(error, self._names), value)])
        decoded = Decoded([], [])
        for index, raw in enumerate(raws):
            event, fault = self._decode_one(raw, received_at)
            if fault is not None:
                decoded.rejected.append(self._rejected(index, *fault, raw))
            elif event is not None:
                decoded.events.append(event)
        return decoded

    def _decode_one(self, raw: bytes, received_at: int) -> tuple[Event | None, tuple[str, str] | None]:
        if len(raw) > self.limits.max_event_bytes:
            return None, ("", f"event of {len(raw)} bytes; at most {self.limits.max_event_bytes} are allowed")
        try:
            event = self._one.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return None, explain(error, self._names)
        return event, self._fault(event, received_at)

    def _fault(self, event: Event, received_at: int) -> tuple[str, str] | None:
        """(field, reason) of the first rule the event breaks; turns its times into milliseconds."""
        at = event.timestamp
        if isinstance(at, datetime):
            at = event.timestamp = milliseconds(at)
        if at < YEAR_2000_MS:
            return "timestamp", f"{at} is before 2000: it looks like seconds; send milliseconds"
        if at > received_at + self.limits.max_ahead_ms:
            ahead = self.limits.max_ahead_ms // 1000
            return "timestamp", f"{at} is more than {ahead} s ahead of the log's stamp {received_at}"
        for field, value in event.ids():
            if len(value) > _SHORT_ID and len(value.encode()) > MAX_ID_BYTES:
                return field, f"id of {len(value.encode())} bytes; at most {MAX_ID_BYTES} are allowed"
        return event.fault()

    def _rejected(self, index: int, field: str, reason: str, raw: bytes) -> Rejected:
        return self.limits.cut(Rejected(index, field, reason, raw))


def milliseconds(time: int | datetime) -> int:
    """Milliseconds since 1970 of a moment with an offset, or of what is milliseconds already."""
    return (time - _EPOCH) // _MILLISECOND if isinstance(time, datetime) else time


def _signal_class(signal: Signal) -> type[SignalEvent]:
    namespace = {"signal": signal, "kind": signal.name}
    annotations = {"__annotations__": {"signal": ClassVar[Signal], "kind": ClassVar[str]}}
    return msgspec.defstruct(  # type: ignore[return-value]
        signal.name, [], bases=(SignalEvent,), namespace=namespace | annotations, tag_field="type", tag=signal.name
    )
