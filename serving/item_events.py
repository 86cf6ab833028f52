# The body of PUT /v1/items as item events.
from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

from serving.problems import Problem
from serving.schemas import decode_body
from serving.split import cut_array


class _ItemsBody(Struct):
    items: list[Raw]


def item_values(body: bytes, now: int, max_items: int) -> list[bytes]:
    """The raw item events of a body; an item without timestamp gets `now` (milliseconds).

    What is no object stays as it is, for the event schema to reject. Raises Problem 400, 413, 422.
    """
    try:
        raws = [bytes(raw) for raw in decode_body(body, _ItemsBody).items]
    except Problem as problem:
        cut = cut_array(body, "items") if problem.status == 400 else None
        if cut is None:
            raise
        raws = cut
    if len(raws) > max_items:
        raise Problem(413, f"items: {len(raws)} in one call; at most {max_items} are allowed", "items")
    return [_item_event(raw, now) for raw in raws]


def _item_event(raw: bytes, now: int) -> bytes:
    try:
        fields = msgspec.json.decode(raw, type=dict[str, Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return raw
    fields["type"] = Raw(b'"item"')
    fields.setdefault("timestamp", Raw(str(now).encode()))
    return msgspec.json.encode(fields)
