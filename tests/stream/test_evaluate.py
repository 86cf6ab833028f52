# The evaluation: its protocol on cases known by eye, and the same figures every time.
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from models.base import PAD, Batch, Query
from models.popularity import Popularity
from stream.evaluate import run_evaluation
from stream.session_preq import SessionPreq
from stream.slices import HOUR_MS, SLICES, FirstSeen

START_MS = 1_763_649_000_000


def batch(*clicks: tuple[tuple[int, ...], int]) -> Batch:
    """(items of the session so far, item taken) a click, as the learner would give them."""
    width = max(len(session) for session, _ in clicks) + 1
    items = np.full((len(clicks), width), PAD, np.int64)
    for row, (session, _) in enumerate(clicks):
        items[row, width - len(session) :] = session
    present = items != PAD
    query = Query(
        items=items,
        signals=np.ones(items.shape, np.uint8),
        labels=present.astype(np.float32),
        at=np.where(present, START_MS, 0),
        in_session=present,
        now=np.full(len(clicks), START_MS, np.int64),
    )
    ones = np.ones(len(clicks), np.float32)
    return Batch(query, np.array([item for _, item in clicks], np.int64), ones, ones)


def test_a_click_is_tested_when_its_session_holds_another_item_and_is_ranked_among_all_but_those() -> None:
    model, protocol = Popularity(), SessionPreq(("popularity",))
    first = batch(((), 0), ((), 0), ((), 0), ((), 1), ((), 1), ((), 2))
    protocol.observe(first, {"popularity": model})
    assert protocol.tests == 0
    model.learn(first)
    # Item 0 is in the session, so 1 is first; 2 behind it is second; a first click is no test.
    protocol.observe(batch(((0,), 1), ((0,), 2), ((), 2)), {"popularity": model})
    assert protocol.tests == 2
    metrics = protocol.totals["popularity"].metrics()
    assert (metrics["hr@10"], metrics["mrr@10"]) == (1.0, 0.75)


def test_an_item_that_no_batch_before_held_is_a_miss_even_if_a_model_knows_it() -> None:
    model, protocol = Popularity(), SessionPreq(("popularity",))
    first = batch(((), 0))
    protocol.observe(first, {"popularity": model})
    model.learn(batch(((), 0), ((), 1)))
    protocol.observe(batch(((0,), 1)), {"popularity": model})
    assert protocol.totals["popularity"].metrics()["hr@20"] == 0.0


def test_a_slice_counts_its_tests_alone_and_a_miss_of_an_item_never_seen_is_in_none_by_age() -> None:
    model, protocol = Popularity(), SessionPreq(("popularity",))
    old = batch(((), 0), ((), 0))
    first = dataclasses.replace(old, query=dataclasses.replace(old.query, now=old.query.now - HOUR_MS))
    for known in (first, batch(((), 1))):
        protocol.observe(known, {"popularity": model})
        model.learn(known)
    # A user's second with a young item (1), with an old one (0), with one never seen (2); and a third with a young one.
    protocol.observe(batch(((0,), 1), ((1,), 0), ((0,), 2), ((0, 0), 1)), {"popularity": model})
    slices = {part: tallies["popularity"] for part, tallies in protocol.slices.items()}
    assert (slices["user's 2nd"].tests, slices["user's 2nd"].hits[10]) == (3, 2.0)
    assert (slices["item < 1 h"].tests, slices["item < 1 h"].hits[10]) == (2, 2.0)
    assert protocol.totals["popularity"].tests == 4


def test_an_item_that_came_first_exactly_an_hour_ago_is_no_longer_young() -> None:
    seen, now = FirstSeen(), batch(((), 0), ((), 3000))
    for before_ms in (HOUR_MS - 1, HOUR_MS):  # events may come late: what counts is the earliest
        seen.add(dataclasses.replace(now, query=dataclasses.replace(now.query, now=now.query.now - before_ms)))
        assert SLICES["item < 1 h"](seen.facts(now)).all() == (before_ms < HOUR_MS)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 clicks in sessions that walk around a ring of 60 items: the next item is the last one plus one."""
    rng = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("data") / "events.jsonl"
    lines, places = [], rng.integers(60, size=40)
    for number in range(3000):
        user = int(rng.integers(40))
        places[user] = (places[user] + 1) % 60
        event = {
            "event_id": f"e{number}",
            "type": "click",
            "user_id": f"u{user}",
            "item_id": f"i{places[user]}",
            "timestamp": START_MS + 1000 * number,
            "session_id": f"s{user}-{number // 600}",
        }
        lines.append(json.dumps(event))
    path.write_text("\n".join(lines))
    return path


def evaluated(stream: Path, out: Path) -> bytes:
    run_evaluation("events", ("popularity", "covisitation", "transformer", "blend"), stream, out, None, seed=3)
    return (out / "metrics.json").read_bytes()


def test_two_runs_with_one_seed_write_the_same_metrics_and_learning_beats_popularity(
    stream: Path, tmp_path: Path
) -> None:
    first = evaluated(stream, tmp_path / "first")
    assert evaluated(stream, tmp_path / "second") == first
    metrics = json.loads(first)
    assert {"stream", "protocol", "events", "tests", "seconds", "config", "models", "slices"} == metrics.keys()
    assert (metrics["events"], metrics["seconds"]) == (3000, 2999.0)
    assert metrics["models"]["popularity"]["hr@10"] < 0.5 < metrics["models"]["covisitation"]["hr@10"]
    assert metrics["models"]["blend"]["hr@10"] > 0.5
    young = metrics["slices"]["item < 1 h"]  # the whole stream lasts fifty minutes
    assert metrics["tests"] - 256 <= young["tests"] <= metrics["tests"]  # the first batch meets new items alone
    assert young["models"]["blend"]["hr@10"] > 0.5
    rows = (tmp_path / "first" / "slices.csv").read_text().splitlines()
    assert rows[0] == "slice,tests,model,hr@10,mrr@10,hr@20,mrr@20"
    assert len(rows) == 1 + len(metrics["slices"]) * len(metrics["models"])
    rows = (tmp_path / "first" / "running.csv").read_text().splitlines()
    assert rows[0] == "events,tests,model,hr@10,mrr@10,hr@20,mrr@20"
    assert (tmp_path / "first" / "running.png").stat().st_size > 10_000


def test_an_unknown_model_is_told_the_valid_names(stream: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'magic'.*popularity"):
        run_evaluation("events", ("magic",), stream, tmp_path, None, seed=0)
