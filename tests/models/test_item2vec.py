# Item2Vec: its gradient, what it learns, and where new items begin.
from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from models.base import Batch
from models.examples import cut
from models.item2vec import Item2Vec, Item2VecConfig, pair_gradients
from tests.models.examples import as_batches, as_bytes, learn, random_clicks

SMALL = Item2VecConfig(width=16, window=4, num_negatives=5)
BATCHES = as_batches(random_clicks(700), [64] * 11)


def built(config: Item2VecConfig = SMALL) -> Item2Vec:
    return Item2Vec(np.random.default_rng(0), config)


def test_gradients_are_those_of_the_loss_as_it_is_written() -> None:
    rng = np.random.default_rng(0)
    near, far = rng.standard_normal((6, 4, 8), np.float32), rng.standard_normal((6, 5, 8), np.float32)
    weights = rng.random((6, 4, 5), np.float32)
    labels = (rng.random((6, 5)) < 0.3).astype(np.float32)
    u, v = torch.from_numpy(near).requires_grad_(), torch.from_numpy(far).requires_grad_()
    logits = torch.stack([torch.stack([u[:, w] @ v[:, c].T for c in range(5)]).diagonal(0, 1, 2) for w in range(4)])
    logits = logits.permute(2, 0, 1)  # [B, W, C] of [W, C, B]
    signs = torch.from_numpy(2 * labels - 1)[:, None]
    each = -functional.logsigmoid(signs * logits) * torch.from_numpy(weights)
    expected = each.sum() / float(weights[:, :, 0].sum())
    expected.backward()  # type: ignore[no-untyped-call]
    loss, of_near, of_far = pair_gradients(near, far, weights, labels)
    assert u.grad is not None
    assert v.grad is not None
    np.testing.assert_allclose(loss, float(expected.detach()), rtol=1e-5)
    np.testing.assert_allclose(of_near, u.grad.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_far, v.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_a_cycle_of_items_is_learned() -> None:
    clicks = [(user, user, (3 * user + step) % 20, 1.0) for step in range(150) for user in range(16)]
    model = built(replace(SMALL, common=100.0, decay=0.5))
    batches = as_batches(clicks, [32] * 80)
    learn({"m": model}, batches)
    best = model.score(batches[-1].query).argsort(axis=1)[:, -3:]  # the next, and what stood beside the newest
    assert (best == batches[-1].items[:, None]).any(axis=1).mean() > 0.95


def test_items_of_two_groups_come_apart() -> None:
    rng = np.random.default_rng(0)
    clicks = [(user, user, int(10 * (user % 2) + rng.integers(10)), 1.0) for _ in range(100) for user in range(16)]
    model = built(replace(SMALL, common=100.0, row_rate=0.2))
    batches = as_batches(clicks, [16] * 120)
    learn({"m": model}, batches)
    best = model.score(batches[-1].query).argsort(axis=1)[:, -10:]
    assert ((best < 10) == (batches[-1].items < 10)[:, None]).mean() > 0.95


def test_a_skipped_target_is_pushed_down_and_is_no_taking() -> None:
    model = built()
    learn({"m": model}, BATCHES[:4])
    skipped = cut(BATCHES[3], np.flatnonzero(BATCHES[3].labels == 0))
    assert len(skipped.items)
    before, takings = dots(model, skipped), model.takings.counts.values.copy()
    for _ in range(5):
        model.learn(skipped)
    assert dots(model, skipped).mean() < before.mean()
    np.testing.assert_array_equal(model.takings.counts.values, takings)


def test_a_skip_in_a_history_says_nothing() -> None:
    model = built()
    learn({"m": model}, BATCHES)
    query = BATCHES[4].query
    row = np.flatnonzero((query.labels[:, -1] == 0) & (query.items >= 0).all(axis=1))[:1]
    assert len(row)
    other = query.items.copy()
    other[row, -1] = (other[row, -1] + 1) % model.num_items
    np.testing.assert_array_equal(model.encode(replace(query, items=other))[row], model.encode(query)[row])


def test_a_new_item_begins_near_what_it_was_taken_after() -> None:
    model = built()
    learn({"m": model}, BATCHES[:8])
    target, new = BATCHES[8], model.num_items
    row = np.flatnonzero((target.labels > 0) & ((target.query.items >= 0).sum(axis=1) == 8))[0]
    batch = cut(target, slice(row, row + 1))
    batch = replace(batch, items=np.array([new]))
    wanted = batch.query.items[batch.query.labels > 0]
    expected = model.vectors.targets.values[wanted].mean(axis=0)
    model.vectors.grow(batch, np.random.default_rng(0))
    apart = model.vectors.targets.values[new] - expected
    assert np.linalg.norm(apart) < 0.5 * np.linalg.norm(expected)
    assert np.abs(apart).max() > 0  # and not at one point with the next


def test_common_items_are_drawn_less_than_they_are_taken() -> None:
    model = built(replace(SMALL, num_negatives=100))
    clicks = [(user, user, 1 if (user + step) % 4 else 2, 1.0) for step in range(30) for user in range(8)]
    batches = as_batches(clicks, [64] * 4)
    learn({"m": model}, batches)
    drawn = model._pairs(batches[-1])[1][:, 1:]
    shares = np.array([0.75, 0.25, 0.125]) ** 0.75  # item 0 was never taken: half of the rarest
    np.testing.assert_allclose((drawn == 1).mean(), shares[0] / shares.sum(), atol=0.03)


def test_a_step_that_is_not_finite_is_refused_and_counted() -> None:
    model = built()
    learn({"m": model}, BATCHES[:2])
    model.vectors.targets.values[BATCHES[2].items[BATCHES[2].labels > 0][:8], 0] = np.inf
    before = as_bytes({"m": model})
    learn({"m": model}, BATCHES[2:3])
    assert model.refused_updates == 1
    after = as_bytes({"m": model})
    changed = {key for key in after if after[key] != before.get(key)} - (after.keys() - before.keys())
    assert not any("contexts" in key or "targets" in key for key in changed)


def dots(model: Item2Vec, batch: Batch) -> NDArray[np.float32]:
    states, vectors = model.encode(batch.query)[:, :-1], model.item_vectors()[:, :-1]
    dots: NDArray[np.float32] = (states * vectors[batch.items]).sum(axis=1)
    return dots
