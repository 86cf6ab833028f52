# The events of a message: what its key says where the value is silent, and what may stand in a topic of items.
from __future__ import annotations

from dataclasses import replace

import msgspec

from stream.event import Decoded, Event, EventDecoder, ItemDelete, ItemUpsert, Rejected
from stream.source import Message


def decode_message(decoder: EventDecoder, message: Message) -> Decoded:
    """What `EventDecoder.decode` gives, and beyond it: a single event without user_id (or item_id) has the message's
    key; in a topic of items an empty value deletes the item of its key, and only changes of the catalogue are taken:
    every fold reads it, and a user's event would count in each."""
    value, at = message.value, message.received_at
    if message.fault:
        return Decoded([], [decoder.limits.cut(Rejected(0, "", message.fault, value))])
    if message.is_of_items and not value and message.key is not None:
        value = _with_id(b"{}", "item_id", message.key, {"type": "item_delete", "timestamp": at}) or value
    decoded = decoder.decode(value, at)
    if message.key is not None and len(decoded.rejected) == 1 and not decoded.events:
        field, reason = decoded.rejected[0].field, decoded.rejected[0].reason
        if reason == "missing" and field in ("user_id", "item_id") and field == _key_field(message):
            value = _with_id(value, field, message.key) or value
            decoded = decoder.decode(value, at)
    if value is not message.value:  # one event, completed: what is refused of it is kept as it came
        came = [replace(each, raw=message.value, is_cut=False) for each in decoded.rejected]
        decoded = Decoded(decoded.events, [decoder.limits.cut(each) for each in came])
    return _only_items(decoder, decoded, message.value) if message.is_of_items else decoded


def _key_field(message: Message) -> str:
    return "item_id" if message.is_of_items else "user_id"


def _with_id(value: bytes, field: str, key: bytes, more: dict[str, object] | None = None) -> bytes | None:
    """The event with its id, None where it is no object or the key no text."""
    try:
        fields = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
        return msgspec.json.encode({field: key.decode(), **(more or {}), **fields})
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _only_items(decoder: EventDecoder, decoded: Decoded, value: bytes) -> Decoded:
    if all(isinstance(event, ItemUpsert | ItemDelete) for event in decoded.events):
        return decoded
    raws = decoder.elements(value)
    refused = {each.index for each in decoded.rejected}
    places = [place for place in range(len(decoded.events) + len(refused)) if place not in refused]
    kept: list[Event] = []
    rejected = list(decoded.rejected)
    for place, event in zip(places, decoded.events, strict=True):
        if isinstance(event, ItemUpsert | ItemDelete):
            kept.append(event)
        else:
            reason = f"{event.kind} events do not belong in the topic of items"
            rejected.append(Rejected(place, "type", reason, raws[place]))
    return Decoded(kept, rejected)
