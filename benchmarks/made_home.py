# A home made in bulk by the real stages: a catalogue of any size, learned by all models, for benchmarks of serving.
from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.registry import MODELS, build_models
from state.follower import StoreSource
from state.store import Store
from stream.fold import FoldStage
from stream.learn import LearnConfig, LearnStage
from stream.log import EventLog, LogSource
from stream.prequential import PrequentialConfig
from stream.run import FOLD_NAME

STEPS = 12  # events of one session
SPREAD = 40  # items on either side of a session's centre that it takes: neighbours in number are alike
_CHUNK = 500  # events of one value of the log


class Clicks:
    """Endless synthetic sessions over `num_items` items: centres by Zipf(1), every item taken once at first."""

    def __init__(self, num_items: int, num_users: int, seed: int = 0) -> None:
        self.num_items, self.num_users = num_items, num_users
        self._rng = np.random.default_rng(seed)
        self._places = self._rng.permutation(num_items)  # rank → item
        share = 1.0 / np.arange(1, num_items + 1)
        self._cumulative = np.cumsum(share) / share.sum()

    def user(self) -> str:
        """A user drawn evenly."""
        return f"user-{self._rng.integers(self.num_users)}"

    def covering(self, until_ms: int) -> Iterator[bytes]:
        """One event for each item, in sessions of random items."""
        for start in range(0, self.num_items, STEPS):
            yield from self._session(self._places[start : start + STEPS], until_ms)

    def drawn(self, num_events: int, until_ms: int) -> Iterator[bytes]:
        """Sessions around centres by Zipf, a hundred at a time interleaved; the last ends at `until_ms`."""
        num_chunks = -(-num_events // (100 * STEPS))
        for chunk in range(num_chunks):
            ranks = np.searchsorted(self._cumulative, self._rng.random(100))
            steps = self._rng.integers(-SPREAD, SPREAD + 1, (100, STEPS))
            items = self._places[(ranks[:, None] + steps) % self.num_items]
            end_ms = until_ms - (num_chunks - 1 - chunk) * STEPS * 1000
            sessions = [list(self._session(row, end_ms)) for row in items]
            yield from (event for step in zip(*sessions, strict=True) for event in step)

    def _session(self, items: NDArray[np.int64], until_ms: int) -> Iterator[bytes]:
        user, number = self.user(), self._rng.integers(2**40)
        for step, (item, is_skip) in enumerate(zip(items.tolist(), self._rng.random(len(items)) < 0.15, strict=True)):
            dwell = 500 if is_skip else 9000
            at = until_ms - (STEPS - step) * 1000
            yield (
                f'{{"event_id":"{number}-{step}","type":"view","user_id":"{user}","item_id":"item-{item}",'
                f'"timestamp":{at},"dwell_ms":{dwell},"session_id":"{number}"}}'
            ).encode()


def make_home(home: Path, clicks: Clicks, num_events: int, trained_per_step: int = 512) -> None:
    """Log, fold and learn one event an item and `num_events` drawn ones; gradient models train on a sample."""
    now = time.time_ns() // 1_000_000
    log = EventLog(home / "log")
    for events in (clicks.covering(now - 3_600_000), clicks.drawn(num_events, now - 60_000)):
        values = [b"[" + b",".join(chunk) + b"]" for chunk in _chunks(events)]
        log.append(values, now)
    torch.set_num_threads(1)
    config = LearnConfig(prequential=PrequentialConfig(rows_per_batch=0))
    with Store(home / "fold", "fold", writer=True) as folded, Store(home / "learn", "learn", writer=True) as learned:
        fold = FoldStage(folded, LogSource(log))
        models, rng = build_models(MODELS), np.random.default_rng(0)
        learn = LearnStage(learned, {FOLD_NAME: StoreSource(folded)}, models, rng, config=config)
        while fold.step().num_messages:
            learn.step(now, trained_per_step)
    log.close()


def _chunks(events: Iterator[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    for event in events:
        chunk.append(event)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
