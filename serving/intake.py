# From a body of events to the log: each event gets its own verdict, and what is accepted is durable.
from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from serving.metrics import ServingMetrics
from serving.problems import Problem, overloaded, unavailable
from serving.schemas import EventResult, decode_body
from serving.split import cut_array
from stream.event import Event, EventDecoder, ItemDelete, ItemUpsert, SignalEvent, UserDelete
from stream.sink import EventSink, SinkError, SinkFull, Value

_CHUNK_BYTES = 48_000  # an array of events up to 64 KiB is decoded in one go, and makes one value of the log

IsKnown = Callable[[SignalEvent], bool]
_Verdict = tuple[EventResult, Event | None]  # with the event, where it is accepted


@dataclass(frozen=True, slots=True)
class IntakeConfig:
    """Bounds of one call."""

    max_events: int = 10_000
    max_lag_events: int = 200_000  # which the fold stage may be behind; it makes up for them in some 3 s


class _Envelope(Struct):
    events: Raw | UnsetType = UNSET


class _Named(Struct):
    event_id: str | None = None
    item_id: str | UnsetType = UNSET


class Intake:
    """Judges events by the event schema and appends the accepted ones.

    The caller's thread only decodes; waiting for the disk is the sink's.
    """

    def __init__(
        self, decoder: EventDecoder, sink: EventSink, metrics: ServingMetrics, config: IntakeConfig | None = None
    ) -> None:
        self._decoder, self._sink, self._metrics = decoder, sink, metrics
        self._config = config or IntakeConfig()
        self._raws = msgspec.json.Decoder(list[Raw])
        self._named = msgspec.json.Decoder(_Named)
        self._counts = {status: metrics.events.labels(status) for status in ("accepted", "duplicate", "rejected")}
        self._unseen = self._config.max_lag_events  # accepted since the lag was last looked at
        self._recent_events = self._recent_values = 1.0  # accepted in the calls so far, older ones counting less

    async def judge(
        self, raws: Sequence[bytes], now: int, is_known: IsKnown, may_delete: bool
    ) -> tuple[list[EventResult], list[Value]]:
        """The verdict on each event in order, and the values to append. `is_known` says whether the user's record
        holds an event already; without `may_delete` deletions of users and items are rejected."""
        results: list[EventResult] = []
        values: list[Value] = []
        for chunk in _chunks(raws):
            if results:
                await asyncio.sleep(0)  # let other requests of this replica pass between two chunks
            accepted: list[tuple[Event, bytes]] = []
            for raw, (result, event) in zip(chunk, self._judge(chunk, now, is_known, may_delete), strict=True):
                results.append(result)
                if event is not None:
                    accepted.append((event, raw))
            values += self._pack(accepted)
        found = Counter(result.status for result in results)
        for status, count in found.items():
            self._counts[status].inc(count)
        self._unseen += found["accepted"]
        self._recent_events = 0.99 * self._recent_events + found["accepted"]
        self._recent_values = 0.99 * self._recent_values + len(values)
        return results, values

    def check_lag(self, folded: Callable[[], Mapping[str, int]]) -> None:
        """Raise Problem 429 where the fold stage, which has `folded` the log up to these offsets, is too far behind.

        The log counts values; how many events there are to a value is taken from recent calls. Looked at again after
        every half percent of the bound: to ask the log costs a tenth of a call.
        """
        if self._unseen < self._config.max_lag_events // 200:
            return
        behind = self._sink.num_behind(folded()) * self._recent_events / self._recent_values
        if behind > self._config.max_lag_events:
            self._metrics.shed.labels("lag").inc()
            raise overloaded(f"about {behind:.0f} events wait to be folded; {self._config.max_lag_events} may")
        self._unseen = 0

    async def append(self, values: Sequence[Value]) -> dict[str, int]:
        """Append values to the log; partition → the offset after the last one there, once all are durable.

        Raises Problem 503 where the log cannot take them.
        """
        try:
            return await self._sink.append(*values) if values else {}
        except SinkFull as error:
            raise unavailable(f"the event log is behind: {error}") from error
        except SinkError as error:
            raise unavailable(f"the event log takes no events: {error}") from error

    def split(self, body: bytes) -> list[bytes]:
        """The raw events of a body: `{"events": [...]}`, a bare event, or an array. Raises Problem 400, 413, 422."""
        try:
            raws = self._split(body)
        except Problem as problem:
            # one event with a NaN, say, stops no other
            cut = cut_array(body, "events") if problem.status == 400 else None
            if cut is None:
                raise
            raws = cut
        if len(raws) > self._config.max_events:
            limit = self._config.max_events
            raise Problem(413, f"events: {len(raws)} in one call; at most {limit} are allowed", "events")
        return raws

    def _split(self, body: bytes) -> list[bytes]:
        array: bytes = body
        if not body.lstrip(b" \t\r\n").startswith(b"["):
            envelope = decode_body(body, _Envelope)
            if isinstance(envelope.events, UnsetType):
                return [body]
            array = bytes(envelope.events)
        try:
            return [bytes(raw) for raw in self._raws.decode(array)]
        except msgspec.ValidationError as error:
            raise Problem(422, f"events: {error}", "events") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Problem(400, f"the body is not JSON: {error}") from error

    def _pack(self, accepted: Sequence[tuple[Event, bytes]]) -> list[Value]:
        """Events as values: all in one, or where the sink wants keys one for each user and for each change of the
        catalogue (a compacted topic keeps the last message of a key)."""
        if not accepted:
            return []
        if not self._sink.is_keyed:
            return [Value(_array([raw for _, raw in accepted]))]
        values: list[Value] = []
        by_user: dict[str, list[bytes]] = {}
        for event, raw in accepted:
            if isinstance(event, ItemUpsert | ItemDelete):
                values.append(Value(raw, event.key, is_item=True))
            else:
                by_user.setdefault(event.key, []).append(raw)
        return values + [Value(_array(raws), user) for user, raws in by_user.items()]

    def _judge(self, chunk: Sequence[bytes], now: int, is_known: IsKnown, may_delete: bool) -> Iterator[_Verdict]:
        decoded = self._decoder.decode(_array(chunk), now)
        if len(decoded.events) + len(decoded.rejected) < len(chunk):  # not JSON as a whole: one by one
            for raw in chunk:
                yield from self._judge([raw], now, is_known, may_delete)
            return
        rejected = {reject.index: reject for reject in decoded.rejected}
        events = iter(decoded.events)
        for index, raw in enumerate(chunk):
            if (reject := rejected.get(index)) is not None:
                yield self._rejection(raw, reject.field, reject.reason), None
            else:
                result = self._verdict(event := next(events), is_known, may_delete)
                yield result, event if result.status == "accepted" else None

    def _verdict(self, event: Event, is_known: IsKnown, may_delete: bool) -> EventResult:
        if isinstance(event, SignalEvent):
            return EventResult("duplicate" if is_known(event) else "accepted", event.event_id)
        if event.kind in ("slate", "user_expiry"):
            reason = f"type: {event.kind} events are written by the servers alone"
            return EventResult("rejected", None, field="type", reason=reason)
        if isinstance(event, ItemDelete | UserDelete) and not may_delete:
            reason = f"type: {event.kind} needs a key with the right administration"
            return EventResult("rejected", None, field="type", reason=reason)
        if isinstance(event, ItemUpsert | ItemDelete):
            return EventResult("accepted", item_id=event.item_id)
        return EventResult("accepted", getattr(event, "event_id", None))

    def _rejection(self, raw: bytes, field: str, reason: str) -> EventResult:
        try:
            named = self._named.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            named = _Named()
        reason = f"{field}: {reason}" if field else reason
        return EventResult("rejected", named.event_id, named.item_id, field=field or UNSET, reason=reason)


def _chunks(raws: Sequence[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for raw in raws:
        if chunk and size + len(raw) > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(raw)
        size += len(raw) + 1
    if chunk:
        yield chunk


def _array(raws: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(raws) + b"]"
