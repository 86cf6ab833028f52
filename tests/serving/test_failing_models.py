# Models that fail, or say what is no number, on the request path: a list of n items comes all the same.
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.base import Model, Query
from models.blend import Blend
from models.transformer import Transformer
from tests.serving.helpers import Loop, crowd, open_loop

ITEMS = [f"item-{number}" for number in range(40)]
ERRORS = [IndexError("no such row"), RuntimeError("shapes"), FloatingPointError("overflow"), ValueError("nothing")]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    folder: Path = tmp_path_factory.mktemp("home")
    with open_loop(folder) as loop:
        loop.send(*crowd(ITEMS))
        loop.settle()
        yield loop


def model(loop: Loop, name: str) -> Model:
    """The model that answers now."""
    with loop.service.versions.read() as (_, home):
        return home.models[name]


def count(loop: Loop, name: str, **labels: str) -> float:
    return loop.service.metrics.registry.get_sample_value(name, labels) or 0.0


def sources(loop: Loop, user: str) -> set[str]:
    items = loop.client.recommend(user, n=10)["items"]
    assert isinstance(items, list)
    return {item["source"] for item in items}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_where_a_source_fails_the_other_sources_fill_the_list(
    learned: Loop, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    before = count(learned, "runnel_model_errors_total", step="sources")
    monkeypatch.setattr(model(learned, "blend"), "candidates", fail)
    assert len(set(learned.client.items("new", n=10))) == 10
    assert sources(learned, "new") <= {"popularity", "newest", "exploration"}
    assert count(learned, "runnel_model_errors_total", step="sources") == before + 2


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_where_scoring_fails_popularity_ranks(learned: Loop, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    before = count(learned, "runnel_fallbacks_total", to="popularity")
    wanted = learned.client.items("someone", n=10, model="popularity")
    monkeypatch.setattr(model(learned, "covisitation"), "score", fail)
    assert learned.client.items("someone", n=10, model="covisitation") == wanted
    assert count(learned, "runnel_fallbacks_total", to="popularity") == before + 1
    assert len(learned.client.items("someone", n=10, explain=True)) == 10


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_items_without_a_finite_score_come_last(learned: Loop, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    blend = model(learned, "blend")
    assert isinstance(blend, Blend)
    first = learned.client.items("reader", n=40, model="blend")[:5]
    with learned.service.versions.read() as (_, home):
        assert home.dictionary is not None
        lost = np.array([home.dictionary.find(item) for item in first])
    score = blend.score

    def partly(query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        assert items is not None
        return np.where(np.isin(items, lost), np.float32(value), score(query, items))

    monkeypatch.setattr(blend, "score", partly)
    slate = learned.client.recommend("reader", n=40, model="blend")["items"]
    assert isinstance(slate, list)
    assert {item["item_id"] for item in slate[-5:]} == set(first)
    assert [item["score"] is None for item in slate] == [False] * 35 + [True] * 5


def test_a_vector_that_is_no_number_repeats_no_item(learned: Loop) -> None:
    transformer = model(learned, "transformer")
    assert isinstance(transformer, Transformer)
    kept = transformer.items.values.copy()
    try:
        transformer.items.values[::3] = np.nan
        transformer.items.changes += 1
        assert len(set(learned.client.items("another", n=30))) == 30
    finally:
        transformer.items.values[:] = kept
        transformer.items.changes += 1
