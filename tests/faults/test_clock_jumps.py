# A clock that jumps: stamps of the log never go back, events are judged by them, and nothing is trimmed too early.
from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models.popularity import Popularity
from state.deltas import DeltaLog
from state.follower import StoreSource
from state.store import Store
from stream.dead_letters import read_dead_letters
from stream.fold import FoldStage
from stream.learn import LearnStage
from stream.log import EventLog, LogSource
from stream.log_sink import LogSink
from stream.sink import Value
from tests.stream.helpers import NOW, fold, value, view

DAY = 24 * 3_600_000


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    log = EventLog(tmp_path / "log")
    yield log
    log.close()


def send(log: EventLog, now: int, *events: bytes) -> None:
    """Append through a sink whose clock says `now`."""
    sink = LogSink(log, lambda: now)
    for event in events:
        asyncio.run(sink.append(Value(event)))
    sink.close()


def rejected(store: Store) -> list[str]:
    with store.read() as txn:
        return [letter.field for letter in read_dead_letters(txn, store)]


def test_stamps_never_go_back_and_events_are_judged_by_them(tmp_path: Path, log: EventLog) -> None:
    send(log, NOW, value(view("u", "a")))
    send(log, NOW - DAY, value(view("u", "b", 60_000)), value(view("u", "c", 600_000)))  # the latter is too far ahead
    send(log, NOW + DAY, value(view("u", "d", DAY)))
    send(log, NOW + 1000, value(view("u", "e", 1000)))
    assert [message.received_at - NOW for message in log.read(0, 10)] == [0, 0, 0, DAY, DAY]
    with Store(tmp_path / "fold", "fold", writer=True) as store:
        stage = FoldStage(store, LogSource(log))
        assert stage.step().num_rejected == 1
        assert rejected(store) == ["timestamp"]


def test_versions_learned_while_the_clock_jumped_are_kept_for_their_time(tmp_path: Path) -> None:
    with Store(tmp_path / "fold", "fold", True) as folded, Store(tmp_path / "learn", "learn", True) as learned:
        values: list[bytes] = []
        folds = {"fold-0": StoreSource(folded)}
        stage = LearnStage(learned, folds, {"popularity": Popularity()}, np.random.default_rng(0))
        for number, jump in enumerate((0, DAY, -DAY, 1000)):
            values.append(value(view("u", f"i{number}", number)))
            fold(folded, values)
            assert stage.step(NOW + jump).version == number + 1
        deltas = DeltaLog(learned)
        with learned.write() as txn:
            assert deltas.trim(txn, NOW - 3_600_000, stage.version) == 0  # as if nothing had been
            assert deltas.trim(txn, NOW + 3_600_000, stage.version) == 1  # what is stamped ahead waits for its time
            assert deltas.trim(txn, NOW + 2 * DAY, stage.version) == 2
            assert deltas.first(txn) == stage.version
