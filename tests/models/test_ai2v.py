# AI2V: the equations it stands for, what it must learn, and when it refuses.
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.ai2v import AI2V, AI2VConfig
from models.base import Query
from models.examples import cut, cut_query, skips_first
from models.tables import RowTable
from models.target_attention import TargetAttention
from tests.models.examples import as_batches, as_bytes, learn, random_clicks

SMALL = AI2VConfig(width=16, window=6, num_hidden=8, num_recent=48, num_uniform=16)
ENTRY = ("items", "signals", "labels", "at", "in_session")
BATCHES = as_batches(random_clicks(700), [64] * 11)


def built(config: AI2VConfig = SMALL) -> AI2V:
    return AI2V(np.random.default_rng(0), config)


def plain_score(model: AI2V, query: Query, row: int, item: int) -> float:
    """One score by models.md's equations, head by head and entry by entry of what is read: the newest skip, then the
    newest that were wanted."""
    query = skips_first(query, model.config.window, num_skips=1)
    weights, num_heads = model.dense(), model.config.num_heads
    heads = np.split(np.arange(model.config.width), num_heads)
    target = model.vectors.targets.values[item]
    gathered = np.zeros(model.config.width)
    for head, of_head in enumerate(heads):
        logits, values = [], []
        for age in range(-1, min(model.config.window, query.items.shape[1])):
            place = query.items.shape[1] - 1 - age
            bias, factors, vector = 0.0, np.ones(model.config.width), weights["nothing"]
            if age >= 0:
                entry = int(query.items[row, place])
                if entry < 0 or entry >= model.num_items:
                    continue
                vector = model.vectors.contexts.values[entry]
                factors = np.where(query.labels[row, place] > 0, 1.0, weights["unwanted"])
                gap = int(np.log2(1 + (query.now[row] - query.at[row, place]) / 1000))
                bias = weights["places.weight"][age, head] + weights["gaps.weight"][gap, head]
                bias += weights["signals.weight"][query.signals[row, place], head]
                bias += weights["sessions.weight"][int(query.in_session[row, place]), head]
            key = weights["context_key.weight"][of_head] @ vector
            other = weights["target_key.weight"][of_head] @ target
            cosine = key @ other / np.linalg.norm(key) / np.linalg.norm(other)
            logits.append(np.exp(weights["log_scale"][head]) * cosine + bias)
            values.append(weights["context_value.weight"][of_head] @ (vector * factors))
        shares = np.exp(logits) / np.exp(logits).sum()
        gathered[of_head] = shares @ np.array(values)
    z, v = weights["gathered.weight"] @ gathered, weights["target_value.weight"] @ target
    first = np.concatenate(
        [weights[f"inner_{part}.weight"] for part in ("gathered", "target", "product", "distance")], 1
    )
    inner = first @ np.concatenate([z, v, z * v, np.abs(z - v)]) + weights["inner_target.bias"]
    return float(np.maximum(inner, 0) @ weights["outer"] + model.biases.values[item, 0])


def test_scores_are_those_of_the_equations() -> None:
    model = built()
    learn({"m": model}, BATCHES[:6])
    query = BATCHES[6].query
    scores = model.score(query)
    num_skips = ((query.items >= 0) & (query.labels == 0)).sum(axis=1)
    assert num_skips.max() > 1  # one is read
    for row in (0, 20, int(num_skips.argmax())):
        expected = [plain_score(model, query, row, item) for item in range(model.num_items)]
        np.testing.assert_allclose(scores[row], expected, rtol=1e-3, atol=1e-4)


def test_learning_sees_the_scores_that_serving_gives() -> None:
    model = built()
    learn({"m": model}, BATCHES[:6])
    batch, drawn = BATCHES[3], np.array([1, 4, 9])
    with torch.no_grad():
        _, competing, own = model._scored(batch, drawn)
    np.testing.assert_allclose(competing.numpy(), model.score(batch.query, drawn), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(own.numpy(), model.score(batch.query, batch.items[:, None])[:, 0], rtol=1e-4, atol=1e-5)


def test_it_begins_as_the_dot_product_of_what_was_gathered() -> None:
    scorer = TargetAttention(width=16, window=4, num_heads=2, num_hidden=8)
    scorer.initialise(torch.Generator().manual_seed(0))
    for part in (scorer.inner_gathered, scorer.inner_target, scorer.inner_distance):
        part.weight.data.zero_()
    scorer.inner_product.weight.data.round_()  # no noise
    ones, codes = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.long)
    context, targets = torch.randn(1, 1, 16), torch.randn(5, 16)
    scorer.nothing.data.zero_()
    scorer.log_scale.data.fill_(-100)  # half of all looks at the entry, half at nothing
    with torch.no_grad():
        history = scorer.history(context, ones, ones, codes, codes, codes)
        scores = scorer(history, scorer.targets(targets, torch.zeros(5)))
    torch.testing.assert_close(scores, 0.5 * context[0] @ targets.T)


def test_each_row_of_many_is_scored_as_alone() -> None:
    model = built()
    learn({"m": model}, BATCHES)
    whole = model.score(BATCHES[3].query)
    for row in (0, 30):
        query = cut_query(BATCHES[3].query, slice(row, row + 1))
        np.testing.assert_allclose(model.score(query)[0], whole[row], rtol=1e-4, atol=1e-5)
        some = np.array([7, 0, 7, 31, model.num_items + 3])  # a request's: by numpy
        expected = np.append(whole[row, some[:-1]], -np.inf)
        np.testing.assert_allclose(model.score(cut_query(query, slice(0, 1)), some)[0], expected, rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing() -> None:
    model = built()
    learn({"m": model}, BATCHES)
    whole = BATCHES[0].query
    kept = (whole.items[:, -3:] >= 0).all(axis=1) & (whole.items[:, :-3] < 0).all(axis=1)
    assert kept.any()
    long = Query(**{name: getattr(whole, name)[kept] for name in ENTRY}, now=whole.now[kept])
    short = Query(**{name: getattr(whole, name)[kept, -3:] for name in ENTRY}, now=whole.now[kept])
    np.testing.assert_allclose(model.score(long), model.score(short), rtol=1e-5, atol=1e-6)


def test_a_cycle_of_items_is_learned() -> None:
    clicks = [(user, user, (3 * user + step) % 20, 1.0) for step in range(150) for user in range(16)]
    model = built(replace(SMALL, window=4, dense_rate=5e-3))
    batches = as_batches(clicks, [32] * 80)
    losses = learn({"m": model}, batches)
    assert np.mean(losses[-3:]) < 0.3 * losses[0]
    query = batches[-1].query
    scores = model.score(query)
    scores[np.arange(len(scores))[:, None], query.items] = -np.inf  # items of the session do not compete
    assert (scores.argmax(axis=1) == batches[-1].items).mean() > 0.95


def test_a_skipped_target_is_pushed_down() -> None:
    model = built()
    learn({"m": model}, BATCHES[:4])
    skipped = cut(BATCHES[3], np.flatnonzero(BATCHES[3].labels == 0))
    assert len(skipped.items)
    before = chances(model, skipped.query)[np.arange(len(skipped.items)), skipped.items]
    for _ in range(5):
        model.learn(skipped)
    after = chances(model, skipped.query)[np.arange(len(skipped.items)), skipped.items]
    assert after.mean() < before.mean()


def test_a_skip_turns_away_from_the_item() -> None:
    model = built(AI2VConfig(width=16, window=4, num_hidden=8))
    learn({"m": model}, as_batches([(user, user, user % 3, 1.0) for user in range(30)] * 8, [20] * 12))
    likes = Query(**{name: getattr(BATCHES[0].query, name)[:1, -2:] for name in ENTRY}, now=np.zeros(1, np.int64))
    likes.items[:], likes.labels[:], likes.signals[:] = 1, 1.0, 1
    before = float(model.score(likes)[0, 1])
    skips = replace(likes, labels=np.array([[1.0, 0.0]], np.float32))
    assert float(model.score(skips)[0, 1]) < before


def test_new_weights_are_used_at_once() -> None:
    model, other = built(), built()
    learn({"m": model}, BATCHES[:3])
    learn({"m": other}, BATCHES[:5])
    query = BATCHES[6].query
    model.score(query)  # what it keeps of this is stale after the next line
    model.load_dense(other.dense())
    for mine, table in zip(model.tables.values(), other.tables.values(), strict=True):
        assert isinstance(mine, RowTable)
        assert isinstance(table, RowTable)
        mine.load(np.arange(table.size), table.values[: table.size])
    np.testing.assert_array_equal(model.score(query), other.score(query))


def test_a_step_that_is_not_finite_is_refused_and_counted() -> None:
    model = built()
    learn({"m": model}, BATCHES[:2])
    model.vectors.targets.values[BATCHES[2].items[0], 0] = np.inf
    before = as_bytes({"m": model})
    learn({"m": model}, BATCHES[2:3])
    assert model.refused_updates > 0
    after = as_bytes({"m": model})
    frequencies = {"m.recent_ring", "m.recent_taken", "m.generator", "m.refused_updates"}
    assert {key for key in after if after[key] != before.get(key)} <= frequencies | (after.keys() - before.keys())


def test_a_width_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match="width 16 is to be a multiple"):
        built(AI2VConfig(width=16, num_heads=3))


def chances(model: AI2V, query: Query) -> NDArray[np.float32]:
    chances: NDArray[np.float32] = torch.from_numpy(model.score(query).copy()).softmax(1).numpy()
    return chances
