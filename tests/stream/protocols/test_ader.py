# ADER: which views are tests, what a frozen model may know of their week, and that all weeks count alike.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stream.protocols.ader import read_weeks, run_ader, views_tested
from stream.protocols.protocol import Trial

# Week, session, item. Week 1 brings item 9, which week 0 did not hold.
VIEWS = [
    *[(0, 1, 5), (0, 2, 6), (0, 1, 6), (0, 2, 5), (0, 3, 7), (0, 3, 5)],
    *[(1, 4, 5), (1, 5, 9), (1, 4, 9), (1, 4, 6), (1, 5, 7), (1, 6, 7), (1, 6, 7), (1, 7, 9), (1, 7, 9)],
    *[(2, 8, 9), (2, 8, 7)],
]


def stream(folder: Path) -> Path:
    (folder / "diginetica").mkdir()
    columns = dict(zip(("period", "session", "item"), map(list, zip(*VIEWS, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "diginetica" / "stream.parquet")
    return folder


def run(folder: Path, *, is_frozen: bool) -> dict[str, list[float]]:
    outcome = run_ader(Trial(folder, ("popularity",), 0, lambda _: None), is_frozen)
    assert outcome.num_events == len(VIEWS)
    return {metric: counts.tolist() for metric, counts in outcome.models["popularity"].items()}


def test_items_of_no_week_before_leave_tests_and_histories(tmp_path: Path) -> None:
    weeks = read_weeks(stream(tmp_path))
    assert [len(week.items) for week in weeks] == [6, 9, 2]
    tests = views_tested(weeks[1], num_seen=3)
    # Items 5, 6, 7 are numbered 0, 1, 2. Left: of session 4 5 6, of session 5 7, of session 6 7 7, of session 7 none.
    assert tests.items.tolist() == [1, 2]
    assert tests.query.items[:, -2:].tolist() == [[-1, 0], [-1, 2]]
    assert tests.query.in_session[:, -1].all()


def test_a_frozen_model_ranks_a_week_by_the_weeks_before_it(tmp_path: Path) -> None:
    found = run(stream(tmp_path), is_frozen=True)
    # After week 0 item 5 was taken thrice, 6 twice, 7 once: ranks 2, 3. After week 1 items 5, 7, 9 four times: rank 2.
    weights = [1.5 / 2, 1.5 / 2, 1.5]  # three tests, two weeks: the first week's two count as much as the other's one
    np.testing.assert_allclose(found["mrr@20"], np.array([1 / 2, 1 / 3, 1 / 2]) * weights)
    np.testing.assert_allclose(np.mean(found["mrr@20"]), ((1 / 2 + 1 / 3) / 2 + 1 / 2) / 2)


def test_a_model_that_is_not_frozen_has_learned_the_batches_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.protocols.ader.BATCH_EVENTS", 1)
    found = run(stream(tmp_path), is_frozen=False)
    # Item 6 is tested after 5 9 9, item 7 after 5 9 9 6 7 7: 7 has been taken thrice, behind 5 and beside 6.
    np.testing.assert_allclose(found["mrr@20"][:2], np.array([1 / 2.5, 1 / 2.5]) * 1.5 / 2)
