# CoNet: its gradient against plain arithmetic, what it must learn, and whose rows it changes.
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.conet import CoNet, CoNetConfig
from models.examples import cut, cut_query
from models.optimizer import FlatWeights, adagrad_rows
from models.pairs import PairStep, Tower, attended, gradient_of, scored
from tests.models.examples import as_batches, as_bytes, learn, random_clicks

SMALL = CoNetConfig(width=8, tower=(8, 4), num_recent=16, num_uniform=16)
BATCHES = as_batches(random_clicks(400), [64] * 10)
Weights = dict[str, NDArray[np.float64]]


def built(seed: int = 0, config: CoNetConfig = SMALL) -> CoNet:
    return CoNet(np.random.default_rng(seed), config)


def some_step(rng: np.random.Generator) -> PairStep:
    """Five examples of three users over nine items, the fourth one skipped."""
    return PairStep(
        users=rng.normal(size=(3, 5)).astype(np.float32),
        items=rng.normal(size=(9, 5)).astype(np.float32),
        user_places=np.array([0, 1, 2, 1, 0]),
        targets=np.array([0, 1, 2, 3, 4]),
        partners=np.array([5, 1, 0, 3, 2]),
        negatives=np.array([2, 6, 7, 8]),
        counts=rng.uniform(0.5, 3, size=4).astype(np.float32),
        pair_negatives=rng.integers(9, size=(5, 2)),
        pair_partners=rng.integers(9, size=(5, 2)),
        pair_count=4.0,
        is_wanted=np.array([True, True, True, False, True]),
        weights=rng.uniform(0.5, 2, size=5).astype(np.float32),
        penalty=0.01,
        pair_weight=0.3,
    )


def trained_tower() -> Tower:
    tower = Tower(4, (6, 3))
    tower.initialise(torch.Generator().manual_seed(1))
    with torch.no_grad():
        tower.out.weight.normal_(generator=torch.Generator().manual_seed(2))
    return tower


def plain_score(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    return float(p[:-1] @ q[:-1] + q[-1] + p[-1])


def plain_pair(weights: Weights, p: NDArray[np.float64], i: NDArray[np.float64], j: NDArray[np.float64]) -> float:
    """The logit of one pair, written as models have it on paper."""
    s_i, s_j = plain_score(p, i), plain_score(p, j)
    share = 1 / (1 + np.exp(-(s_i - s_j)))
    x = np.concatenate([p[:-1], share * i[:-1] + (1 - share) * j[:-1]])
    for layer in range(2):
        x = np.maximum(weights[f"layers.{layer}.weight"] @ x + weights[f"layers.{layer}.bias"], 0)
    return float(share * s_i + (1 - share) * s_j + (weights["out.weight"] @ x)[0])


def plain_loss(weights: Weights, step: PairStep, users: NDArray[np.float64], items: NDArray[np.float64]) -> float:
    """The loss, example by example and negative by negative."""

    def cost(logit: float) -> float:
        return float(np.log1p(np.exp(logit)))

    def size(vector: NDArray[np.float64]) -> float:
        return float(vector @ vector)

    total = 0.0
    for n, (weight, target) in enumerate(zip(step.weights.tolist(), step.targets, strict=True)):
        p, row = users[step.user_places[n]], items[target]
        score = plain_score(p, row)
        found = cost(-score if step.is_wanted[n] else score) + step.penalty / 2 * (size(p[:-1]) + size(row[:-1]))
        if step.is_wanted[n]:
            for column, count in zip(step.negatives, step.counts.tolist(), strict=True):
                q = items[column]
                found += count * step.penalty / 2 * (size(p[:-1]) + size(q[:-1]))
                found += count * cost(plain_score(p, q)) if column != target else 0.0
            pair = cost(-plain_pair(weights, p, row, items[step.partners[n]]))
            for k, j in zip(step.pair_negatives[n], step.pair_partners[n], strict=True):
                pair += step.pair_count * cost(plain_pair(weights, p, items[k], items[j]))
            found += step.pair_weight * pair
        total += weight * found
    return total


def test_loss_and_gradient_are_those_of_plain_arithmetic() -> None:
    step, tower = some_step(np.random.default_rng(0)), trained_tower()
    weights = {name: weight.detach().double().numpy() for name, weight in tower.named_parameters()}
    users, items = step.users.astype(np.float64), step.items.astype(np.float64)
    found = gradient_of(tower, FlatWeights(tower), step)
    assert float(found.loss) == pytest.approx(plain_loss(weights, step, users, items), rel=1e-5)
    for values, gradient in ((users, found.users), (items, found.items)):
        for place in np.ndindex(values.shape):
            at = values[place]
            values[place] = at + 1e-5
            above = plain_loss(weights, step, users, items)
            values[place] = at - 1e-5
            slope = (above - plain_loss(weights, step, users, items)) / 2e-5
            values[place] = at
            assert float(gradient[place]) == pytest.approx(slope, rel=2e-3, abs=2e-5)


def test_a_step_without_pairs_leaves_the_tower_alone() -> None:
    tower = trained_tower()
    step = replace(some_step(np.random.default_rng(0)), pair_weight=0.0)
    assert not gradient_of(tower, FlatWeights(tower), step).dense.any()


def test_a_pair_of_one_item_is_that_item_and_slots_have_no_order() -> None:
    tower, rng = trained_tower(), torch.Generator().manual_seed(0)
    p, i, j = torch.randn(3, 5, generator=rng), torch.randn(3, 5, generator=rng), torch.randn(3, 5, generator=rng)
    alone = scored(p, i) + tower(p[:, :-1], i[:, :-1])
    torch.testing.assert_close(attended(tower, p, i, i), alone)
    torch.testing.assert_close(attended(tower, p, i, j), attended(tower, p, j, i))


def test_scores_tell_the_log_odds_of_a_taking() -> None:
    """One user takes item 1 three times of four, item 2 else, of 20: their odds are 3 to 1 and 1 to 3."""
    clicks = [(0, 0, 1 if n % 4 else 2, 1.0) for n in range(400)] + [(1, 1, n % 20, 1.0) for n in range(20)]
    model = built(config=replace(SMALL, penalty=0.0, pair_weight=0.0, num_uniform=64))
    batches = as_batches(clicks, [40] * 10)
    for _ in range(60):
        learn({"m": model}, batches)
    scores = model.score(cut_query(batches[0].query, slice(0, 1)))[0]
    np.testing.assert_allclose(scores[1:3], np.log([3.0, 1 / 3]), atol=0.2)
    assert np.delete(scores, [1, 2]).max() < scores[2] - 1.0


def test_users_differ_once_they_took_different_items() -> None:
    clicks = [(user, user, 5 * (user % 2) + item % 5, 1.0) for item in range(40) for user in range(6)]
    model, batches = built(), as_batches(clicks, [24] * 9)
    learn({"m": model}, batches * 3)
    scores = model.score(batches[-1].query)
    own = batches[-1].items[:, None] // 5 == np.arange(10) // 5
    assert scores[own].min() > scores[~own].max()


def test_a_skip_pushes_its_item_down_for_its_user_and_no_liked_item() -> None:
    model = built()
    learn({"m": model}, BATCHES[:4])
    skipped = cut(BATCHES[4], np.flatnonzero(BATCHES[4].labels == 0))
    known = np.arange(model.num_items)
    before = model.score(skipped.query, known).copy()
    for _ in range(3):
        model.learn(skipped)
    change = model.score(skipped.query, known) - before
    own = change[np.arange(len(change)), skipped.items]
    assert (own < 0).all()
    assert own.mean() < change.mean()


def test_only_the_batch_s_users_change_and_a_batch_of_nobody_changes_none() -> None:
    model = built()
    learn({"m": model}, BATCHES[:3])
    before = {user: model.users.rows([user]).copy() for user in model.users.held()}
    model.users.take_touched()
    assert BATCHES[3].query.users is not None
    chosen = cut(BATCHES[3], np.flatnonzero(np.isin(BATCHES[3].query.users, [b"u1", b"u2"])))
    model.learn(chosen)
    assert model.users.take_touched() == [b"u1", b"u2"]
    changed = {user for user, row in before.items() if not np.array_equal(row, model.users.rows([user]))}
    assert changed == {b"u1", b"u2"}
    model.learn(replace(BATCHES[3], query=replace(BATCHES[3].query, users=None)))
    assert model.users.take_touched() == []


def test_an_unknown_user_is_scored_by_what_items_are_worth_to_all() -> None:
    model = built()
    learn({"m": model}, BATCHES[:4])
    query = cut_query(BATCHES[4].query, slice(0, 2))
    query = replace(query, users=np.array([b"new", b"newer"], object))
    scores, biases = model.score(query), model.item_vectors()[:, -1]
    np.testing.assert_allclose(scores - biases, np.full(scores.shape, scores[0, 0] - biases[0]), rtol=1e-5)


def test_a_pair_s_score_joins_anchor_and_item_and_is_none_where_either_is_unknown() -> None:
    model = built()
    learn({"m": model}, BATCHES)
    query, items = cut_query(BATCHES[0].query, slice(0, 3)), np.array([3, 4, 999])
    scores = model.score_pairs(query, np.array([3, 5, 999]), items)
    assert np.isfinite(scores[:2, :2]).all()
    assert (scores[2] == -np.inf).all()
    assert (scores[:, 2] == -np.inf).all()
    np.testing.assert_allclose(model.score_pairs(query, np.array([4, 4, 4]), np.array([3]))[0], scores[0, 1], rtol=1e-5)


def test_a_step_that_is_not_finite_is_refused_and_counted() -> None:
    model = built()
    learn({"m": model}, BATCHES[:2])
    assert BATCHES[2].query.users is not None
    model.users.put([BATCHES[2].query.users[0]], np.full((1, 18), np.inf, np.float32))
    before = as_bytes({"m": model})
    assert model.learn(BATCHES[2]) == np.inf
    assert model.refused_updates > 0
    after = as_bytes({"m": model})
    frequencies = {"m.recent_ring", "m.recent_taken", "m.generator", "m.refused_updates"}
    assert {key for key in after if after[key] != before.get(key)} <= frequencies | (after.keys() - before.keys())


def test_rows_with_one_square_move_as_their_mean_gradient_has_it() -> None:
    values, squares = torch.zeros(2, 3), torch.zeros(2, 1)
    gradient = torch.tensor([[3.0, 0.0, 0.0]])
    adagrad_rows(values, squares, torch.tensor([1]), gradient, learning_rate=0.1, decay=0.9)
    torch.testing.assert_close(squares[:, 0], torch.tensor([0.0, 3.0]))
    torch.testing.assert_close(values[1], torch.tensor([-0.3 / 3**0.5, 0.0, 0.0]))
