# An event as records hold it: signal events become entries, slates and impressions their rows.
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh64_intdigest

from state.entry import NO_DWELL, NO_POSITION, pack_fields
from state.signals import Signal, SignalTable
from state.slate import Impression as ImpressionRow
from state.slate import Slate as SlateRow
from state.slate import pack_impression, pack_slate
from stream.event import Impression, SignalEvent, Slate, milliseconds

SESSION_GAP_MS = 1_800_000

NumberOf = Callable[[str], int]  # an item's number in the dictionary of the store


def to_entry(event: SignalEvent, number_of: NumberOf, signals: SignalTable) -> bytes:
    """The 44 bytes of the event; a view (or what else has a `min_dwell_ms`) with less dwell time is a skip."""
    at, event_id, dwell_ms, position = event.timestamp, event.event_id, event.dwell_ms, event.position
    if not isinstance(at, int):
        at = milliseconds(at)
    if event_id is None:
        event_id = f"{event.user_id}\0{event.item_id}\0{event.kind}\0{at}"
    return pack_fields(
        at,
        xxh64_intdigest(event_id.encode()),
        number_of(event.item_id),
        meant_signal(event, signals).code,
        NO_POSITION if position is None else position,
        NO_DWELL if dwell_ms is None else dwell_ms,
        event.duration_ms or 0,
        short_hash(event.session_id),
        short_hash(event.request_id),
        event.value,
    )


def meant_signal(event: SignalEvent, signals: SignalTable) -> Signal:
    """The event's own signal, or skip where it dwelt less than its signal asks for."""
    signal = event.signal
    if event.dwell_ms is not None and event.dwell_ms < signal.min_dwell_ms:
        return signals.by_name["skip"]
    return signal


def to_slate(event: Slate, number_of: NumberOf) -> bytes:
    """The row of a slate as served; its event id is the request id."""
    return pack_slate(
        SlateRow(
            event.at,
            _hash(event.request_id),
            short_hash(event.request_id),
            event.version,
            tuple(number_of(item) for item in event.items),
            tuple(_hash(source) & 0xFFFF for source in event.sources),
            tuple(event.propensities),
        )
    )


def to_impression(event: Impression, number_of: NumberOf) -> bytes:
    """The row of what a user saw of a slate."""
    items, positions = tuple(event.items or ()), tuple(event.positions or ())
    event_id = event.event_id or f"{event.user_id}\0{event.request_id or items}\0{positions}\0{event.at}"
    return pack_impression(
        ImpressionRow(
            event.at,
            _hash(event_id),
            short_hash(event.request_id),
            tuple(number_of(item) for item in items),
            positions,
        )
    )


def _hash(text: str) -> int:
    return xxh64_intdigest(text.encode())


def short_hash(text: str | None) -> int:
    """A u32 of a session or request id; 0 where there is none, and only there."""
    return (xxh64_intdigest(text.encode()) & 0xFFFFFFFF or 1) if text else 0


def session_mask(
    at: NDArray[np.int64],
    sessions: NDArray[np.integer],
    present: NDArray[np.bool_],
    now: NDArray[np.int64],
    session: NDArray[np.integer],
    gap_ms: int = SESSION_GAP_MS,
) -> NDArray[np.bool_]:
    """[Q, L] which entries of each history belong to the session of a moment.

    `at` [Q, L] event times (oldest first), `sessions` [Q, L] hashes, `present` [Q, L] False where padded; `now` [Q]
    and `session` [Q] the moment's. A moment with a session id (not 0) takes all entries of that id; one without takes
    the run up to it without ids and without a gap over `gap_ms`.
    """
    same = present & (sessions == session[:, None])
    gaps = np.concatenate([at[:, 1:], now[:, None]], axis=1) - at  # a third of np.diff's time
    run = np.logical_and.accumulate((same & (gaps <= gap_ms))[:, ::-1], axis=1)[:, ::-1]
    return np.where(session[:, None] != 0, same, run)


def refined_mask(
    items: NDArray[np.int64], requests: NDArray[np.int64], present: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """[Q, L] which entries of each history (oldest first) a later one refines: it speaks of the same item and request.

    `requests` [Q, L] hashes, 0 where an entry has none: such an entry refines nothing.
    """
    # One number for item and request; where there is none, a negative one of its own.
    keys = np.where(present & (requests != 0), items << 32 | requests, -1 - np.arange(items.shape[1]))
    order = np.argsort(keys, axis=1, kind="stable")  # equal keys together, oldest first
    ordered = np.take_along_axis(keys, order, axis=1)
    is_followed = np.zeros(keys.shape, np.bool_)
    is_followed[:, :-1] = ordered[:, :-1] == ordered[:, 1:]
    refined = np.empty_like(is_followed)
    np.put_along_axis(refined, order, is_followed, axis=1)
    return refined
