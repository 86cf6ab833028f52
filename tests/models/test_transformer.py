# The transformer: what it may see, what it must learn, and when it refuses.
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.attention import Encoder
from models.base import Query
from models.examples import cut_query, skips_first
from models.negatives import RecentItems, inclusion
from models.optimizer import adagrad_rows
from models.transformer import Transformer, TransformerConfig
from tests.models.examples import as_batches, as_bytes, learn, one_query, random_clicks

SMALL = TransformerConfig(width=16, window=6, num_layers=2, num_recent=64, num_uniform=16)
ENTRY = ("items", "signals", "labels", "at", "in_session")
BATCHES = as_batches(random_clicks(400), [64] * 10)


def built(seed: int = 0, config: TransformerConfig = SMALL) -> Transformer:
    return Transformer(np.random.default_rng(seed), config)


def test_a_later_entry_does_not_reach_earlier_states() -> None:
    torch.manual_seed(0)
    encoder = Encoder(width=16, window=6, num_layers=2, num_heads=2)
    encoder.initialise(torch.Generator().manual_seed(0))
    vectors, ones = torch.randn(2, 6, 16), torch.ones(2, 6, dtype=torch.bool)
    codes = torch.ones(2, 6, dtype=torch.long)
    changed = vectors.clone()
    changed[:, 4] = torch.randn(2, 16)
    with torch.no_grad():
        before = encoder(vectors, ones, ones, ones, codes, codes, num_last=6)
        after = encoder(changed, ones, ones, ones, codes, codes, num_last=6)
        newest = encoder(vectors, ones, ones, ones, codes, codes)
    torch.testing.assert_close(after[:, :4], before[:, :4], rtol=0, atol=0)
    assert (after[:, 4:] - before[:, 4:]).abs().amax() > 1e-4
    torch.testing.assert_close(newest[:, 0], before[:, -1])


def test_padding_changes_nothing() -> None:
    model = built()
    learn({"m": model}, BATCHES)
    whole = BATCHES[0].query
    kept = (whole.items[:, -3:] >= 0).all(axis=1) & (whole.items[:, :-3] < 0).all(axis=1)
    assert kept.any()
    long = Query(**{name: getattr(whole, name)[kept] for name in ENTRY}, now=whole.now[kept])
    short = Query(**{name: getattr(whole, name)[kept, -3:] for name in ENTRY}, now=whole.now[kept])
    np.testing.assert_allclose(model.encode(long), model.encode(short), rtol=1e-5, atol=1e-6)


def test_scores_are_dot_products_and_an_item_of_the_session_has_its_place_added() -> None:
    model = built()
    learn({"m": model}, BATCHES)
    query = BATCHES[-1].query
    states, places = model.encode(query), model.dense()["returns.weight"]
    expected = states @ model.item_vectors().T
    read = skips_first(query, SMALL.window, SMALL.num_skips)
    for row, (items, in_session) in enumerate(zip(read.items.tolist(), read.in_session.tolist(), strict=True)):
        newest = {item: place for place, item in reversed(list(enumerate(items[: -SMALL.window - 1 : -1])))}
        for item, place in newest.items():
            if item >= 0 and in_session[-1 - place]:
                expected[row, item] += states[row] @ places[place]
    np.testing.assert_allclose(model.score(query), expected, rtol=1e-4, atol=1e-5)
    chosen = model.score(replace(query), np.arange(model.num_items))
    np.testing.assert_allclose(chosen, expected, rtol=1e-4, atol=1e-5)


def test_skips_take_one_place_before_what_was_wanted() -> None:
    model, labels = built(config=TransformerConfig(width=16, window=4)), [1, 0, 1, 1, 0, 0, 1, 0]
    learn({"m": model}, BATCHES)
    query = one_query(range(8), labels)
    np.testing.assert_array_equal(model.encode(query), model.encode(one_query([7, 2, 3, 6], [0, 1, 1, 1])))
    assert not np.array_equal(model.encode(query), model.encode(one_query([5, 2, 3, 6], [0, 1, 1, 1])))
    short = one_query([5, 3], [0, 1])
    np.testing.assert_array_equal(model.encode(one_query([3, 4, 5], [1, 0, 0])), model.encode(short))


def test_it_learns_whether_items_of_a_session_are_taken_again() -> None:
    rng = np.random.default_rng(0)
    order = rng.permuted(np.tile(np.arange(40), (60, 1)), axis=1)
    above = {}
    for num_items in (4, 40):  # of a session: taken in turn, so of 40 none is taken twice within a window
        clicks = [(user, user, int(order[user, step % num_items]), 1.0) for step in range(36) for user in range(60)]
        model, batches = built(config=TransformerConfig(width=16, dense_rate=5e-3)), as_batches(clicks, [60] * 36)
        learn({"m": model}, batches)
        scores, items = model.score(batches[-1].query), batches[-1].query.items[:, -4]
        above[num_items] = np.median((scores > scores[np.arange(60), items][:, None]).sum(axis=1))
    assert above[4] < 3
    assert above[40] > 20


@pytest.mark.parametrize("num_items", [1, 15, 16, 17, 1023, 1025, 3001])
def test_a_score_does_not_depend_on_the_items_number(num_items: int) -> None:
    here, there = built(), built()
    vectors = np.random.default_rng(0).standard_normal((num_items, SMALL.width)).astype(np.float32)
    moved = np.random.default_rng(1).permutation(num_items)
    here.items.load(np.arange(num_items), vectors)
    there.items.load(np.arange(num_items), vectors[moved])
    nobody = cut_query(BATCHES[0].query, slice(0, 1))
    nobody = replace(nobody, items=np.full_like(nobody.items, -1))
    np.testing.assert_array_equal(here.score(nobody)[:, moved], there.score(nobody))


@pytest.mark.parametrize("has_distances", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_one_query_is_encoded_as_among_many(num_layers: int, has_distances: bool) -> None:
    model = built(config=replace(SMALL, num_layers=num_layers, has_distances=has_distances))
    learn({"m": model}, BATCHES)
    model.items.remove(np.array([3, 7]))  # unknown items stand in histories too
    for batch in (BATCHES[0], BATCHES[-1]):
        whole = model.encode(batch.query)
        each = np.concatenate([model.encode(cut_query(batch.query, slice(row, row + 1))) for row in range(64)])
        np.testing.assert_allclose(each, whole, rtol=1e-4, atol=1e-5)
        assert each.dtype == np.float32
    model.load_dense({name: 2 * weight for name, weight in model.dense().items()})
    np.testing.assert_allclose(
        model.encode(cut_query(BATCHES[3].query, slice(9, 10)))[0],
        model.encode(BATCHES[3].query)[9],
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_cycle_of_items_is_learned() -> None:
    clicks = [(user, user, (3 * user + step) % 20, 1.0) for step in range(150) for user in range(16)]
    model = built(config=TransformerConfig(width=16, window=4, dense_rate=5e-3))
    batches = as_batches(clicks, [32] * 80)
    losses = learn({"m": model}, batches)
    assert np.mean(losses[-3:]) < 0.2 * losses[0]
    query = batches[-1].query
    scores = model.score(query)
    scores[np.arange(len(scores))[:, None], query.items] = -np.inf  # items of the session do not compete
    assert (scores.argmax(axis=1) == batches[-1].items).mean() > 0.95


def test_a_skipped_target_is_pushed_down() -> None:
    batch = BATCHES[3]
    skipped = np.flatnonzero(batch.labels == 0)
    assert len(skipped)
    model = built()
    learn({"m": model}, BATCHES[:4])
    before = torch.from_numpy(model.score(batch.query).copy()).log_softmax(1)[skipped, batch.items[skipped]]
    for _ in range(5):
        model.learn(batch)
    after = torch.from_numpy(model.score(batch.query)).log_softmax(1)[skipped, batch.items[skipped]]
    assert float(after.mean()) < float(before.mean())


def test_a_step_that_is_not_finite_is_refused_and_counted() -> None:
    model = built()
    learn({"m": model}, BATCHES[:2])
    model.items.values[BATCHES[2].items[0], 0] = np.inf
    before = as_bytes({"m": model})
    model.learn(BATCHES[2])
    assert model.refused_updates > 0
    after = as_bytes({"m": model})
    frequencies = {"m.recent_ring", "m.recent_taken", "m.generator", "m.refused_updates"}
    assert {key for key in after if after[key] != before.get(key)} <= frequencies | (after.keys() - before.keys())


def test_a_row_still_moves_after_a_long_stream() -> None:
    values, squares, rows = torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0])
    for _ in range(5000):
        adagrad_rows(values, squares, rows, torch.ones(1, 2), learning_rate=0.1, decay=0.99)
    before = values.clone()
    adagrad_rows(values, squares, rows, torch.ones(1, 2), learning_rate=0.1, decay=0.99)
    torch.testing.assert_close(before - values, torch.full((1, 2), 0.01), rtol=1e-3, atol=0)  # 0.1 * sqrt(1 - 0.99)


def test_a_skip_turns_the_state_away_before_any_was_learned() -> None:
    model = built(config=TransformerConfig(width=16, window=4))
    learn({"m": model}, as_batches([(user, user, user % 3, 1.0) for user in range(30)] * 4, [20] * 9))
    likes = Query(**{name: getattr(BATCHES[0].query, name)[:1, -1:] for name in ENTRY}, now=np.zeros(1, np.int64))
    likes.items[:], likes.labels[:], likes.signals[:] = 1, 1.0, 1
    before = model.encode(likes) @ model.item_vectors()[1]
    likes.labels[:, -1] = 0.0
    assert model.encode(likes) @ model.item_vectors()[1] < before


def test_recent_items_know_their_shares() -> None:
    recent = RecentItems(capacity=4)
    recent.add(np.array([0, 0, 1]), num_items=3)
    recent.add(np.array([2, 2]), num_items=3)
    np.testing.assert_allclose(recent.shares(np.array([0, 1, 2])), [0.25, 0.25, 0.5])
    assert set(recent.draw(50, np.random.default_rng(0)).tolist()) == {0, 1, 2}


def test_the_chance_of_being_drawn_is_that_of_a_simulation() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.7, 0.2, 0.08, 0.02])
    drawn = [np.union1d(rng.choice(4, 10, p=shares), rng.integers(4, size=2)) for _ in range(4000)]
    found = np.array([np.mean([item in items for items in drawn]) for item in range(4)])
    np.testing.assert_allclose(inclusion(shares, 10, 2, 4), found, atol=0.03)
