# What the user did: the record as of the newest fold, the session that came with the request, and the model's query.
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Query
from serving.moment import Moment
from serving.problems import Problem
from serving.steps.sources import number_of
from state.entry import ENTRY
from state.offsets import get_offsets
from state.records import read_record
from state.signals import SignalTable
from stream.entry import SESSION_GAP_MS, refined_mask, session_mask, to_entry
from stream.event import MAX_ID_BYTES, EventDecoder, SignalEvent


@dataclass(frozen=True, slots=True)
class HistoryConfig:
    """How much of a record a model sees; the same as in learning."""

    max_entries: int = 50
    session_gap_ms: int = SESSION_GAP_MS
    max_session_events: int = 200  # of a request's `session`


class ReadRecord:
    """The record and the offset it stands at, read in one transaction, so that they belong together."""

    name = "record"

    def __call__(self, moment: Moment) -> None:
        user = moment.request.user_id.encode()
        if len(user) > MAX_ID_BYTES:
            raise Problem(422, f"user_id: id of {len(user)} bytes; at most {MAX_ID_BYTES} are allowed", "user_id")
        with moment.store.read() as txn:
            record = read_record(txn, moment.store, user)
            for part in (record.sequence, record.seen, record.dislikes):
                _ = part.rows  # loaded while the transaction is open
            moment.record = record
            moment.session_offsets = get_offsets(txn, moment.store, "fold")


class FoldSession:
    """Folds the events that came with the request over this request's copy of the record."""

    name = "session"

    def __init__(self, decoder: EventDecoder, signals: SignalTable, config: HistoryConfig) -> None:
        self._decoder, self._signals, self._config = decoder, signals, config

    def __call__(self, moment: Moment) -> None:
        raws = moment.request.session
        if not raws:
            return
        if len(raws) > self._config.max_session_events:
            limit = self._config.max_session_events
            raise Problem(422, f"session: {len(raws)} events; at most {limit} are allowed", "session")
        decoded = self._decoder.decode(b"[" + b",".join(bytes(raw) for raw in raws) + b"]", moment.now)
        for reject in decoded.rejected:
            field = f"session[{reject.index}].{reject.field}".rstrip(".")
            raise Problem(422, f"{field}: {reject.reason}", field)
        assert moment.record is not None
        find = number_of(moment.home)
        for event in decoded.events:
            # an item nobody has sent yet has no number, and no model knows it
            if isinstance(event, SignalEvent) and find(event.item_id) >= 0:
                moment.record.fold(to_entry(event, find, self._signals), self._signals)


class BuildQuery:
    """The newest entries as the arrays that models score from, and what was just skipped.

    The moment's time is event time (the newest of what the version learned and of the user's own entries), so that
    the same version and offset give the same list whenever they are asked.
    """

    name = "query"

    def __init__(self, signals: SignalTable, config: HistoryConfig) -> None:
        self._signals, self._config = signals, config

    def __call__(self, moment: Moment) -> None:
        assert moment.record is not None
        width = self._config.max_entries
        entries = _less_refined(np.frombuffer(b"".join(moment.record.sequence.rows[-width:]), ENTRY))
        padded, present = np.zeros((1, width), ENTRY), np.zeros((1, width), np.bool_)
        padded[0, width - len(entries) :], present[0, width - len(entries) :] = entries, True
        at, sessions = padded["timestamp"].astype(np.int64), padded["session"].astype(np.int64)
        now = np.array([max(at[0, -1], moment.home.event_time) or moment.now], np.int64)
        in_session = session_mask(at, sessions, present, now, sessions[:, -1], self._config.session_gap_ms)
        if now[0] - at[0, -1] > self._config.session_gap_ms:
            in_session[:] = False  # a session id may be old too
        codes = padded["signal"]
        labels = np.where(present, self._signals.labels[codes], np.float32(0))
        items = np.where(present, padded["item"].astype(np.int64), PAD)
        users, order = np.array([moment.request.user_id.encode()], object), moment.home.catalogue.order
        moment.query = Query(items, codes, labels, at, in_session, now, users, order)
        unwanted = (labels <= 0) & (self._signals.weights[codes] > 0)  # an undo says nothing of the item
        newest_word = dict(zip(items[in_session].tolist(), unwanted[in_session].tolist(), strict=True))
        moment.just_skipped = {item for item, is_unwanted in newest_word.items() if is_unwanted}


def _less_refined(entries: NDArray[np.void]) -> NDArray[np.void]:
    """[L] the entries without those that a later one of the same item and request refines."""
    if not np.count_nonzero(entries["request"]):  # a third of any()'s time
        return entries
    items, requests = entries["item"].astype(np.int64)[None, :], entries["request"].astype(np.int64)[None, :]
    kept: NDArray[np.void] = entries[~refined_mask(items, requests, np.ones(items.shape, np.bool_))[0]]
    return kept
