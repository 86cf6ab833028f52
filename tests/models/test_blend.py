# The blend: what sources propose, what it learns from them, and how a skip counts at once.
from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.base import PAD
from models.blend import Blend
from models.candidates import best_items, places_of, union
from models.examples import cut
from models.features import PLACE, SKIPPED
from models.registry import build_models
from tests.models.examples import as_batches, learn, one_query, random_clicks


def clusters(num: int, seed: int = 0) -> list[tuple[int, int, int, float]]:
    """Sessions that stay among the ten items of one of four topics."""
    rng = np.random.default_rng(seed)
    return [
        (session, session, 10 * (session % 4) + int(rng.integers(10)), 1.0)
        for number in range(num)
        for session in [100 * (number // 800) + int(rng.integers(40))]
    ]


def learned(num: int = 4000, size: int = 64, others: tuple[str, ...] = ()) -> tuple[Blend, list[float]]:
    models = build_models(["blend"], configs={"blend": {"others": others}})
    blend = models["blend"]
    assert isinstance(blend, Blend)
    batches = as_batches(clusters(num), [size] * 100)
    losses = learn(models, batches)
    return blend, losses[:: len(models)]


def test_it_ranks_the_topic_of_the_session_first_and_its_loss_falls() -> None:
    blend, losses = learned()
    assert np.nanmean(losses[-10:]) < 0.8 * np.nanmean(losses[1:11])
    best = np.argsort(-blend.score(one_query([12, 15, 17], [1, 1, 1]))[0])[:8]
    assert set((best // 10).tolist()) == {1}


def test_it_scores_and_learns_while_the_transformer_lags_behind_the_counters() -> None:
    models = build_models(["blend"])
    batches = as_batches(clusters(600), [64] * 9)
    for number, batch in enumerate(batches):  # the transformer meets the first batch alone, and that late
        scores = models["blend"].score(batch.query)
        assert scores.shape == (len(batch.items), models["blend"].num_items)
        assert not np.isnan(scores).any()
        for name, model in models.items():
            if name != "transformer":
                model.learn(batch)
        if number == 4:
            models["transformer"].learn(batches[0])


def test_a_skip_pushes_similar_items_down_before_anything_is_learned() -> None:
    blend, _ = learned()
    items = np.arange(40)
    before = blend.score(one_query([12, 22], [1, 1]), items)[0]
    after = blend.score(one_query([12, 22, 15], [1, 1, 0]), items)[0]
    similar, different = [10, 11, 13, 14, 16, 17, 18, 19], [20, 21, 23, 24, 25, 26, 27, 28, 29]
    assert (after - before)[similar].max() < (after - before)[different].min()


def test_the_weight_of_likeness_to_skips_never_rises_above_its_bound() -> None:
    models = build_models(["blend"])
    learn(models, as_batches(random_clicks(3000), [64] * 60))
    blend = models["blend"]
    assert isinstance(blend, Blend)
    assert (blend.weights[blend.by_length, SKIPPED] <= -blend.config.min_skip_penalty).all()
    assert (blend.weights[blend.by_length.stop :, SKIPPED] <= 0).all()


def test_only_what_a_source_proposed_has_a_score() -> None:
    blend, _ = learned(800)
    query = one_query([12], [1])
    proposed = union(blend.candidates(query, blend.config.num_ranked).values())[0]
    scores = blend.score(query)[0]
    assert set(np.flatnonzero(np.isfinite(scores)).tolist()) == set(proposed[proposed >= 0].tolist())


def test_scores_are_kept_for_the_learning_that_follows_and_no_longer() -> None:
    models = build_models(["blend"])
    batches = as_batches(clusters(400), [64] * 10)
    learn(models, batches[:4])
    blend, transformer = models["blend"], models["transformer"]
    query = batches[4].query
    first = transformer.score(query)
    blend.score(query)
    assert transformer.score(query) is first
    learn(models, batches[4:5])
    assert not np.array_equal(transformer.score(query)[:, : first.shape[1]], first)


def test_candidates_are_united_once_each() -> None:
    united = union([np.array([[3, 1, PAD]]), np.array([[1, 2, 3]])])
    assert sorted(united[0].tolist()) == [PAD, PAD, PAD, 1, 2, 3]
    assert places_of(united, np.array([9])).tolist() == [-1]
    assert united[0, places_of(united, np.array([2]))[0]] == 2


def test_best_items_leave_out_what_has_no_score() -> None:
    scores = np.array([[0.0, 2.0, -np.inf, 1.0]], np.float32)
    assert best_items(scores, 3).tolist() == [[1, 3, 0]]
    assert best_items(scores, 9).tolist() == [[1, 3, 0, PAD]]


def test_of_a_sampled_batch_it_notes_all_items_and_takes_gradients_of_the_sample_alone() -> None:
    (batch,) = as_batches(clusters(64), [64])
    chosen = np.arange(64) % 4 == 0
    sampled, alone, fresh = learned(400)[0], learned(400)[0], build_models(["blend"])["blend"]
    assert isinstance(fresh, Blend)
    weights, before = fresh.weights.copy(), sampled.weights.copy()
    sampled.learn(replace(batch, sampled=chosen))
    alone.learn(cut(batch, np.flatnonzero(chosen)))
    np.testing.assert_array_equal(sampled.weights, alone.weights)
    assert not np.array_equal(sampled.weights, before)
    fresh.learn(replace(batch, sampled=np.zeros(64, np.bool_)))
    np.testing.assert_array_equal(fresh.weights, weights)
    assert np.isfinite(fresh.first_seen.values[batch.items, 0]).all()


def test_items_of_an_age_have_weights_of_their_own() -> None:
    hour, days = learned(60, size=10)[0], learned(4000)[0]  # a click a minute
    by_age = [blend.weights[blend.by_age] for blend in (hour, days)]
    assert by_age[0].any(axis=1).tolist() == [True, False, False, False]
    assert by_age[1].any(axis=1).all()


def test_what_a_session_holds_is_ranked_by_whether_it_is_taken_again() -> None:
    rng = np.random.default_rng(0)
    items = rng.integers(40, size=(40, 2))
    clicks = [(session, session, int(items[session, step % 2]), 1.0) for step in range(40) for session in range(40)]
    models = build_models(["blend"])
    batches = as_batches(clicks, [64] * 25)
    learn(models, batches)
    query, targets = batches[-1].query, batches[-1].items  # the entry before the newest
    scores = models["blend"].score(query)
    assert np.mean((scores > scores[np.arange(len(targets)), targets][:, None]).sum(axis=1)) < 2


def test_what_the_parts_add_is_the_score() -> None:
    blend, _ = learned(2000, others=("conet", "ai2v"))
    query, items = one_query([12, 22, 15], [1, 1, 0]), np.arange(40)
    parts = blend.explain(query, items)
    np.testing.assert_allclose(sum(parts.values()), blend.score(query, items), rtol=1e-4, atol=1e-4)
    assert set(parts) == {
        "transformer",
        "covisitation",
        "popularity",
        "recent",
        "trending",
        "age",
        "session",
        "skipped",
    } | set(blend.config.others)
    assert parts["skipped"][0, 14] < parts["skipped"][0, 24] <= 0


def test_a_list_says_which_of_two_was_taken_though_both_were_candidates() -> None:
    (batch,) = as_batches(clusters(200), [200])
    num, other = len(batch.items), (batch.items + 10) % 40  # of another topic
    shown = np.stack([other, batch.items], axis=1)
    with_lists, without = learned(2000)[0], learned(2000)[0]
    for _ in range(20):
        with_lists.learn(replace(batch, shown=shown))
        without.learn(batch)
    chances = [blend.score(batch.query, shown) @ np.array([-1.0, 1.0]) for blend in (with_lists, without)]
    assert np.mean(chances[0]) > np.mean(chances[1])
    unlisted = replace(batch, shown=np.full((num, 3), PAD))  # no list is known of any
    assert learned(400)[0].learn(unlisted) == learned(400)[0].learn(batch)


def test_what_stands_high_is_taken_more_often_and_that_is_no_merit_of_the_items() -> None:
    blend, _ = learned(2000)
    rng = np.random.default_rng(0)
    (batch,) = as_batches(clusters(200), [200])
    for _ in range(40):
        shown = np.stack([rng.permutation(40)[:10] for _ in range(200)])
        blend.learn(replace(batch, items=shown[:, 0], shown=shown))  # always the first, whatever it is
    assert blend.weights[:, PLACE].sum() < -1
    spread = blend.score(batch.query, np.arange(40)).std(axis=1).mean()
    assert spread < 0.5 * learned(2000)[0].score(batch.query, np.arange(40)).std(axis=1).mean()
