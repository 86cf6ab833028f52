# A step's gradient: shares of its examples add up to the whole, and the whole is what is learned.
from __future__ import annotations

import numpy as np
import pytest
import torch

from models.attention import Encoder
from models.optimizer import FlatWeights
from models.step import Gradient, Step, gradient_of, share
from models.transformer import Transformer, TransformerConfig
from tests.models.examples import as_batches, learn, random_clicks

BATCHES = as_batches(random_clicks(400), [50] * 8)


def a_step() -> tuple[Encoder, FlatWeights, Step]:
    """The last step that a transformer computed a gradient of, and its weights as they are then."""
    model, steps = Transformer(np.random.default_rng(0), TransformerConfig(width=16, num_recent=64)), []

    def compute(encoder: Encoder, weights: FlatWeights, step: Step) -> Gradient:
        steps.append(step)
        return gradient_of(encoder, weights, step)

    model.compute = compute
    learn({"transformer": model}, BATCHES)
    return model.encoder, model.adam.weights, steps[-1]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 80])  # of 80 ranks, 30 have no example
def test_the_shares_of_all_ranks_add_up_to_the_whole(num_ranks: int) -> None:
    encoder, weights, step = a_step()
    whole = [part.clone() for part in gradient_of(encoder, weights, step)]
    assert float(whole[0]) > 0
    assert all(part.abs().max() > 0 for part in whole)
    total = [torch.zeros_like(part) for part in whole]
    for rank in range(num_ranks):
        for sum_, part in zip(total, gradient_of(encoder, weights, share(step, rank, num_ranks)), strict=True):
            sum_ += part
    for sum_, part in zip(total, whole, strict=True):
        torch.testing.assert_close(sum_, part, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 80])
def test_each_example_is_one_rank_s(num_ranks: int) -> None:
    _, _, step = a_step()
    shares = [share(step, rank, num_ranks) for rank in range(num_ranks)]
    assert np.concatenate([part.targets for part in shares]).tolist() == step.targets.tolist()
    sizes = [len(part.targets) for part in shares]
    assert max(sizes) - min(sizes) <= 1
