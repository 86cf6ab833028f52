# The answer, and what is left behind for learning from it.
from __future__ import annotations

import math
from collections import Counter

import msgspec
from msgspec import UNSET

from models.base import Model
from serving.metrics import ServingMetrics
from serving.moment import Moment, Pick
from serving.schemas import SlateItem, SlateReply
from state.home import Home
from state.slate import MAX_ITEMS
from stream.sink import EventSink, SinkClosed, Value


class Respond:
    """Turns picks into the reply."""

    name = "respond"

    def __init__(self, metrics: ServingMetrics) -> None:
        self._metrics = metrics

    def __call__(self, moment: Moment) -> None:
        items = [slate_item(moment, pick) for pick in moment.slate]
        for source, count in Counter(pick.source for pick in moment.slate).items():
            self._metrics.slate_items.labels(source).inc(count)
        age = model_age_ms(moment.home, moment.now)
        offset, offsets = moment.session_offset, moment.session_offsets
        moment.reply = SlateReply(moment.request_id, moment.home.version, age, offset, offsets, items)


class LogSlate:
    """Writes what was served to the event log without waiting, so that the blend can learn from it."""

    name = "log_slate"

    def __init__(self, sink: EventSink, metrics: ServingMetrics) -> None:
        self._sink, self._metrics = sink, metrics

    def __call__(self, moment: Moment) -> None:
        if not moment.slate:
            return
        assert moment.reply is not None
        kept = moment.slate[:MAX_ITEMS]
        event = {
            "type": "slate",
            "user_id": moment.request.user_id,
            "timestamp": moment.now,
            "request_id": moment.request_id,
            "version": moment.home.version,
            "items": [place.item_id for place in moment.reply.items[:MAX_ITEMS]],
            "sources": [pick.source for pick in kept],
            "propensities": [pick.propensity for pick in kept],
        }
        try:
            written = self._sink.append_unsynced(Value(msgspec.json.encode(event), moment.request.user_id))
        except SinkClosed:  # the replica is stopping; the answer is worth more
            written = False
        if not written:
            self._metrics.slates_dropped.inc()


def slate_item(moment: Moment, pick: Pick) -> SlateItem:
    """One place of the slate as the reply has it."""
    reason = {name: _finite(scores[pick.place]) for name, scores in moment.parts.items()}
    score = pick.score if math.isfinite(pick.score) else None
    assert moment.home.dictionary is not None
    item = moment.home.dictionary.name(pick.item)
    kept = {name: value for name, value in reason.items() if value is not None}
    return SlateItem(item, score, pick.source, round(pick.propensity, 6), kept or UNSET)


def model_age_ms(home: Home[Model], now: int) -> int | None:
    """Milliseconds since the newest event the version has learned; None before the first."""
    return max(0, now - home.event_time) if home.event_time else None


def _finite(score: float) -> float | None:
    return float(score) if math.isfinite(score) else None
