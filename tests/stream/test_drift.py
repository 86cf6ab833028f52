# Drift alarms: what gets worse all at once is told, and holds its model only where that is asked for.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from models.registry import build_models
from state.meta import get_held
from state.store import Store
from stream.drift import Alarm, DriftConfig, DriftMonitor
from stream.learn import LearnConfig, LearnResult
from stream.log import EventLog
from stream.metrics import StageMetrics
from stream.prequential import PrequentialConfig
from stream.run_learn import LearnRunConfig, learn_models
from tests.stream.helpers import JsonEvent, fold, value, view


def alarms_of(hits: Sequence[float], losses: Sequence[float] = (), held: bool = False) -> list[Alarm]:
    """What a monitor says to steps of ten tests each, hits drawn with these chances."""
    rng, monitor, alarms = np.random.default_rng(1), DriftMonitor(), []
    for place, chance in enumerate(hits):
        found = [bool(hit) for hit in rng.random(10) < chance]
        loss = {"m": losses[place]} if len(losses) else {}
        alarms += monitor.observe(LearnResult(1, 10, 0, 1, loss, {"m": "why"} if held else {}, {"m": found}))
    return alarms


def test_a_hit_rate_that_falls_raises_one_alarm_with_its_detector() -> None:
    (alarm,) = alarms_of([0.5] * 100 + [0.1] * 100)
    assert (alarm.model, alarm.detector) == ("m", "adwin")
    assert alarm.text.startswith("hit rate fell from 0.4")


def test_a_hit_rate_that_rises_or_stays_raises_none() -> None:
    assert alarms_of([0.1] * 100 + [0.5] * 100) == []
    assert alarms_of([0.3] * 300) == []


def test_a_loss_that_rises_raises_an_alarm_and_one_that_falls_does_not() -> None:
    calm = [0.3] * 400
    assert {alarm.detector for alarm in alarms_of(calm, [1.0] * 200 + [3.0] * 200)} == {"page_hinkley"}
    assert alarms_of(calm, [3.0] * 200 + [1.0] * 200) == []


def test_a_model_that_is_held_raises_none() -> None:
    assert alarms_of([0.5] * 100 + [0.1] * 100, held=True) == []


def turning_events() -> list[JsonEvent]:
    """First always the same ten items, then each time a new one: no model can be right any more."""
    easy = [view(f"u{at % 50}", f"i{at % 10}", at, event_id=f"e{at}") for at in range(3000)]
    return easy + [view(f"u{at % 50}", f"new{at}", 5000 + at, event_id=f"n{at}") for at in range(3000)]


@pytest.mark.parametrize("may_hold", [False, True])
def test_the_learn_process_tells_of_drift_and_holds_the_model_only_where_it_may(tmp_path: Path, may_hold: bool) -> None:
    EventLog(tmp_path / "log").close()
    with Store(tmp_path / "fold", "fold", writer=True) as folded:
        fold(folded, [value(*turning_events()[start : start + 500]) for start in range(0, 6000, 500)])
    stage = LearnConfig(batch_size=20, max_entries_per_step=500, prequential=PrequentialConfig(rows_per_batch=10))
    config = LearnRunConfig(commit_seconds=0.0, drift=DriftConfig(may_hold=may_hold), stage=stage)
    stop, metrics = Event(), _StopsAtAlarm()
    metrics.stop = stop
    learn_models(tmp_path, stop, lambda _: build_models(["popularity"]), 0, config, metrics)
    assert (
        metrics.registry.get_sample_value("runnel_drift_alarms_total", {"model": "popularity", "detector": "adwin"})
        == 1
    )
    for name, labels in (("drift_alarms", {"detector": "page_hinkley"}), ("refused_updates", {})):
        assert metrics.registry.get_sample_value(f"runnel_{name}_total", {"model": "popularity", **labels}) == 0
    with Store(tmp_path / "learn", "learn") as learned, learned.read() as txn:
        held = get_held(txn, learned)
    assert list(held) == (["popularity"] if may_hold else [])
    assert all(text.startswith("drift: adwin: hit rate fell from") for text in held.values())


class _StopsAtAlarm(StageMetrics):
    """Ends the process at the first alarm."""

    stop: Event

    def __init__(self) -> None:
        super().__init__("learn")

    def drifted(self, model: str, detector: str) -> None:
        super().drifted(model, detector)
        self.stop.set()
