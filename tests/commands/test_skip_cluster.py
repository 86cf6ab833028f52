# skip-cluster on models whose lists are known, and one short run of all of it.
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import commands.skip_cluster as protocol
from models.base import PAD, Query
from models.popularity import Popularity
from stream.protocols.evaluate import run_protocol
from stream.protocols.protocol import Trial
from stream.protocols.wrapped import Wrapped

CLUSTERS = np.repeat([0, 1, 2], 12)


class Ranked(Wrapped):
    """Likes items of cluster 0 most, then 1, then 2; with `hears` one it has seen a skip of comes last."""

    def __init__(self, hears: bool) -> None:
        super().__init__(Popularity())
        self._hears = hears

    def score(self, query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        assert items is None
        scores = np.tile(-np.arange(36.0, dtype=np.float32), (len(query.now), 1))
        for row, (own, labels) in enumerate(zip(query.items, query.labels, strict=True)):
            skipped = CLUSTERS[own[(own != PAD) & (labels == 0)]]
            scores[row] -= 100 * np.isin(CLUSTERS, skipped) * self._hears
        return scores


def users(num: int) -> Query:
    """Users who have taken item 35."""
    items = np.full((num, 8), PAD)
    items[:, -1] = 35
    present = items != PAD
    signals, at = np.where(present, 1, 0).astype(np.uint8), np.where(present, 1000, 0)
    return Query(items, signals, present.astype(np.float32), at, present, np.full(num, 2000))


@pytest.mark.parametrize(("hears", "shares"), [(True, [1, 0, 0, 0]), (False, [1, 1, 1, 0.9])])
def test_who_hears_of_a_skip_shows_no_more_of_its_cluster_and_others_lose_the_skipped_alone(
    hears: bool, shares: list[float]
) -> None:
    found = protocol.shares_after_skips(Ranked(hears), users(2), CLUSTERS, 2)
    np.testing.assert_array_equal(found, np.repeat(shares, 2).reshape(4, 2))


def test_skips_on_the_second_page_take_nothing_from_a_list_but_by_the_model() -> None:
    assert (protocol.shares_after_skips(Ranked(False), users(3), CLUSTERS, 2, first=10) == 1).all()
    hearing = protocol.shares_after_skips(Ranked(True), users(3), CLUSTERS, 2, first=10)
    assert hearing[:, 0].tolist() == [1, 0, 0, 0]


def test_a_short_run_gives_every_figure_with_skips_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "NUM_EVENTS", 3000)
    trial = Trial(Path(), ("popularity", "covisitation"), 1, lambda _: None)
    outcome, again = protocol.run(trial), protocol.run(trial)
    assert outcome.num_events == 3000
    assert list(outcome.models) == [f"{name}{end}" for name in trial.models for end in ("", " without skips")]
    for name, figures in outcome.models.items():
        assert set(figures) == set(protocol.METRICS)
        for metric, values in figures.items():
            np.testing.assert_array_equal(values, again.models[name][metric])
    counts = outcome.models["covisitation"]
    # Counts hear of no skip: both are the same, and far above chance; a skipped item is not shown again.
    assert (counts["gain"].mean(), counts["left, page 2"].mean()) == (0.0, 1.0)
    assert counts["hr@10"].mean() > 0.05
    assert counts["after 3"].mean() < counts["share"].mean()


def test_seeds_with_other_users_are_reported_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(protocol, "NUM_EVENTS", 2500)
    protocols = {"skip-cluster": protocol.SKIP_CLUSTER}
    run_protocol("skip-cluster", ("covisitation",), tmp_path, tmp_path / "out", (0, 1, 2), protocols)
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    rows = (tmp_path / "out" / "seeds.csv").read_text().splitlines()[1:]
    hits = [float(row.split(",")[2]) for row in rows if row.split(",")[1] == "covisitation"]
    assert len(set(hits)) == 3
    assert document["models"]["covisitation"]["hr@10"] == pytest.approx(sum(hits) / 3, abs=1e-5)
    assert 0.002 < document["standard_error"]["covisitation"]["hr@10"] < 0.05


def test_moments_pass_and_only_who_skips_has_a_new_entry() -> None:
    before = users(2)
    after = protocol._with_skips(before, np.array([7, PAD]), 2)
    assert after.items[0, -2:].tolist() == [35, 7]
    assert (after.labels[0, -1], after.signals[0, -1], after.at[0, -1]) == (0, 2, after.now[0])
    same = dataclasses.replace(after, now=before.now)
    for field in ("items", "labels", "signals", "at", "in_session"):
        np.testing.assert_array_equal(getattr(same, field)[1], getattr(before, field)[1])
