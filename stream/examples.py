# Examples: a history and its target, many at once as the arrays that models take.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Batch, Query
from state.entry import ENTRY
from state.signals import SignalTable
from stream.entry import SESSION_GAP_MS, refined_mask, session_mask


class Example(NamedTuple):
    """A packed entry to learn, the packed entries of its user just before it, oldest first, and the list of items that
    it was taken from, where one was shown (`Shown.beside`)."""

    target: bytes
    history: list[bytes]
    user: bytes
    shown: tuple[int, ...] = ()


@dataclass(frozen=True)
class ExampleConfig:
    """How much of a record a model sees."""

    max_entries: int = 50
    session_gap_ms: int = SESSION_GAP_MS


def batch_of(examples: Sequence[Example], signals: SignalTable, config: ExampleConfig) -> Batch:
    """The examples in their order as a Batch of histories as wide as the longest; item numbers are the entries'.

    What a later entry of the history, or the target itself, refines is left out.
    """
    targets: NDArray[np.void] = np.frombuffer(b"".join([example.target for example in examples]), ENTRY)
    entries, present = _aligned([example.history for example in examples])
    entries, present = _less_refined(entries, present, targets)
    before = np.where(present, entries["item"].astype(np.int64), PAD)
    at, now = entries["timestamp"].astype(np.int64), targets["timestamp"].astype(np.int64)
    labels = np.where(present, signals.labels[entries["signal"]], np.float32(0))
    in_session = session_mask(at, entries["session"], present, now, targets["session"], config.session_gap_ms)
    users = np.empty(len(examples), object)
    users[:] = [example.user for example in examples]
    query = Query(
        items=before, signals=entries["signal"], labels=labels, at=at, in_session=in_session, now=now, users=users
    )
    codes = targets["signal"]
    items, shown = targets["item"].astype(np.int64), _lists([example.shown for example in examples])
    return Batch(query, items, signals.labels[codes], signals.weights[codes], shown=shown)


def _lists(items: Sequence[Sequence[int]]) -> NDArray[np.int64] | None:
    """[B, most] PAD behind them; None where there are none at all."""
    width = max(map(len, items), default=0)
    if width == 0:
        return None
    return np.array([[*of, *[PAD] * (width - len(of))] for of in items], np.int64)


def _aligned(histories: Sequence[Sequence[bytes]]) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
    """([B, width] ENTRY, zeros on the left where a history is shorter; [B, width] where an entry stands), as wide as
    the longest, at least 1."""
    lengths = np.fromiter(map(len, histories), np.int64, len(histories))
    width = int(lengths.max(initial=1))
    # Row by row, True where an entry stands: the joined histories fall into these places in order.
    present = np.arange(width) >= width - lengths[:, None]
    entries: NDArray[np.void] = np.zeros(present.shape, ENTRY)
    entries[present] = np.frombuffer(b"".join(chain.from_iterable(histories)), ENTRY)
    return entries, present


def _less_refined(
    entries: NDArray[np.void], present: NDArray[np.bool_], targets: NDArray[np.void]
) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
    """The histories without what is refined, again without holes."""
    if not (entries["request"] != 0).any():
        return entries, present
    both = np.concatenate([entries, targets[:, None]], axis=1)
    both_present = np.pad(present, ((0, 0), (0, 1)), constant_values=True)
    refined = refined_mask(both["item"].astype(np.int64), both["request"].astype(np.int64), both_present)[:, :-1]
    changed = np.flatnonzero((refined & present).any(axis=1))
    if len(changed):
        kept = present[changed] & ~refined[changed]
        order = np.argsort(kept, axis=1, kind="stable")  # what is dropped to the left, the others as they stood
        entries[changed] = np.where(
            np.sort(kept, axis=1), np.take_along_axis(entries[changed], order, axis=1), _NOTHING
        )
        present = present.copy()
        present[changed] = np.sort(kept, axis=1)
    return entries, present


_NOTHING = np.zeros((), ENTRY)
