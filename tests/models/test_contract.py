# What every registered model keeps, whatever it learns.
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.base import PAD, Model, Query
from models.examples import cut
from models.registry import MODELS, build_models, parts_of
from models.tables import RowTable
from tests.models.examples import Store, as_batches, as_bytes, learn, random_clicks, table_arrays

every_model = pytest.mark.parametrize("name", sorted(MODELS))
BATCHES = as_batches(random_clicks(600), [64] * 20)


def built(name: str, seed: int = 0) -> dict[str, Model]:
    return build_models([name], seed)


def strangers(num_items: int) -> Query:
    """An empty history, one of unknown items alone, and one that mixes both, at moments before and after all events."""
    items = np.array([[PAD] * 4, [PAD, PAD, num_items + 5, 10**6], [PAD, 1, num_items, 2]])
    return Query(
        items=items,
        signals=np.full(items.shape, 255, np.uint8),
        labels=np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1]], np.float32),
        at=np.zeros(items.shape, np.int64),
        in_session=items != PAD,
        now=np.array([0, 10**13, 10**13]),
        users=np.array([b"nobody", b"u1", b"u2"], object),
    )


@every_model
def test_scoring_changes_nothing_even_for_unknown_ids(name: str) -> None:
    models = built(name)
    learn(models, BATCHES[:3])
    before = as_bytes(models)
    model = models[name]
    for query in (BATCHES[4].query, strangers(model.num_items)):
        whole = model.score(query)
        some = model.score(query, np.array([0, PAD, model.num_items, 10**6]))
        assert whole.shape == (len(query.now), model.num_items)
        assert some.shape == (len(query.now), 4)
        assert whole.dtype == some.dtype == np.float32
        assert not np.isnan(whole).any()
        assert not np.isnan(some).any()
    assert as_bytes(models) == before


@every_model
def test_a_model_that_learned_nothing_scores_no_item(name: str) -> None:
    models = built(name)
    assert models[name].score(BATCHES[0].query).shape == (64, 0)
    assert models[name].score(BATCHES[0].query, np.array([0, 7])).shape == (64, 2)


@every_model
def test_items_grow_as_ids_come(name: str) -> None:
    models = built(name)
    learn(models, BATCHES[:2])
    far = replace(BATCHES[2], items=np.where(np.arange(64) == 9, 4999, BATCHES[2].items))
    learn(models, [far])
    assert models[name].num_items == 5000
    assert models[name].score(BATCHES[3].query).shape == (64, 5000)


@every_model
def test_scores_of_chosen_items_are_those_of_the_whole(name: str) -> None:
    models = built(name)
    learn(models, BATCHES[:6])
    query = BATCHES[6].query
    items = np.random.default_rng(1).integers(models[name].num_items, size=(64, 11))
    whole = np.take_along_axis(models[name].score(query), items, axis=1)
    given = np.isfinite(whole)  # a blend gives -inf to what no source proposed
    np.testing.assert_allclose(models[name].score(query, items)[given], whole[given], rtol=1e-4, atol=1e-4)
    shared = models[name].score(query, items[0])
    np.testing.assert_allclose(shared[0], models[name].score(query, items)[0], rtol=1e-4, atol=1e-4)


@every_model
def test_saved_loaded_and_continued_equals_uninterrupted(name: str) -> None:
    steady, store = built(name), Store()
    for batch in BATCHES[:5]:
        learn(steady, [batch])
        store.save(steady)
    resumed = built(name, seed=99)
    store.load(resumed)
    assert as_bytes(resumed) == as_bytes(steady)
    np.testing.assert_array_equal(resumed[name].score(BATCHES[5].query), steady[name].score(BATCHES[5].query))
    assert str(learn(resumed, BATCHES[5:])) == str(learn(steady, BATCHES[5:]))
    assert as_bytes(resumed) == as_bytes(steady)


@every_model
def test_touched_rows_are_those_that_changed(name: str) -> None:
    models = built(name)
    for batch in BATCHES[:6]:
        before = {key: table_arrays(table) for key, table in models[name].tables.items()}
        learn(models, [batch])
        for key, table in models[name].tables.items():
            after, old = table_arrays(table), before[key]
            changed = {int(row) for row in after if row not in old or not np.array_equal(after[row], old[row])}
            touched = set(table.take_touched().tolist() if isinstance(table, RowTable) else table.take_touched())
            if isinstance(table, RowTable):  # a row that exists but was never set needs no saving
                changed = {row for row in changed if not (table.values[row] == table.fill).all()}
            assert touched == changed


@every_model
@pytest.mark.parametrize(("field", "value"), [("labels", np.nan), ("weights", np.inf), ("weights", -1.0)])
def test_input_that_is_not_finite_is_refused_by_name(name: str, field: str, value: float) -> None:
    models = built(name)
    learn(models, BATCHES[:2])
    before = as_bytes(models)
    spoiled = getattr(BATCHES[2], field).copy()
    spoiled[3] = value
    with pytest.raises(ValueError, match=f"batch.{field}"):
        models[name].learn(replace(BATCHES[2], **{field: spoiled}))
    assert as_bytes(models) == before


@every_model
def test_one_seed_gives_the_same_bits(name: str) -> None:
    first, second = built(name, seed=5), built(name, seed=5)
    assert str(learn(first, BATCHES)) == str(learn(second, BATCHES))
    assert as_bytes(first) == as_bytes(second)


@every_model
def test_an_empty_batch_teaches_nothing(name: str) -> None:
    models = built(name)
    learn(models, BATCHES[:2])
    before = as_bytes(models)
    learn(models, [cut(BATCHES[2], slice(0, 0))])
    assert as_bytes(models) == before


def test_a_wrong_name_is_answered_with_the_right_ones() -> None:
    with pytest.raises(ValueError, match="unknown model 'bland'; the models are ai2v, blend, conet, covisitation"):
        build_models(["recent", "bland"])


def test_a_blend_brings_its_parts_and_learns_before_them() -> None:
    names = list(build_models(["blend"]))
    assert names[0] == "blend"
    assert set(names) == {"blend", *parts_of("blend", {})}


def test_choosing_more_models_changes_none() -> None:
    alone, together = built("transformer"), built("blend")
    learn(alone, BATCHES[:3])
    learn(together, BATCHES[:3])
    assert as_bytes(alone) == as_bytes({"transformer": together["transformer"]})
