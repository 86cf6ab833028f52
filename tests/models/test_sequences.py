# Whole sequences: what one pass over them must equal, what counts as a target, and that dropout is the seed's.
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models import step as steps
from models.attention import Encoder
from models.base import PAD, Batch, LearnsSequences, Query
from models.examples import cut, every_target
from models.optimizer import FlatWeights
from models.softmax_loss import HIDDEN, against_columns
from models.step import Gradient, Step, gradient_of, share
from models.transformer import Transformer, TransformerConfig
from tests.models.examples import START_MS, as_batches, as_bytes, learn, random_clicks

SMALL = TransformerConfig(width=16, window=12, num_layers=2, has_distances=True, whole_catalogue=100)
NUM_ITEMS = 30


def sequences(lengths: tuple[int, ...], seed: int = 0) -> Query:
    """Sequences of such lengths below 13: items that repeat, a sixth skipped, the newest half a session."""
    rng = np.random.default_rng(seed)
    shape = (len(lengths), 13)
    present = np.arange(13) >= 13 - np.array(lengths)[:, None]
    items = np.where(
        present,
        np.where(rng.random(shape) < 0.5, rng.integers(4, size=shape), rng.integers(NUM_ITEMS, size=shape)),
        PAD,
    )
    labels = present & (rng.random(shape) > 1 / 6)
    return Query(
        items=items,
        signals=np.where(present, 2 - labels, 0).astype(np.uint8),
        labels=labels.astype(np.float32),
        at=np.where(present, START_MS + 60_000 * np.arange(13), 0),
        in_session=present & (np.arange(13) >= 7),
        now=np.full(len(lengths), START_MS + 60_000 * 13),
    )


def as_examples(whole: Query, weights: NDArray[np.float32]) -> Batch:
    """Every entry but the first column's as an example of its own, after the entries before it."""
    parts = []
    for end in range(1, 13):
        cut_off = {name: np.full_like(getattr(whole, name), PAD if name == "items" else 0) for name in ENTRY}
        for name in ENTRY:
            cut_off[name][:, 13 - end :] = getattr(whole, name)[:, :end]
        here = whole.items[:, end] != PAD
        batch = Batch(replace(whole, **cut_off), whole.items[:, end], whole.labels[:, end], weights[:, end])
        parts.append(cut(batch, np.flatnonzero(here)))
    return Batch(
        query=Query(
            **{name: np.concatenate([getattr(part.query, name) for part in parts]) for name in (*ENTRY, "now")}
        ),
        items=np.concatenate([part.items for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        weights=np.concatenate([part.weights for part in parts]),
    )


ENTRY = ("items", "signals", "labels", "at", "in_session")
WHOLE = sequences((12, 3, 1, 9, 12))
WEIGHTS = np.where(np.arange(13) % 4 == 3, 2.0, 1.0).astype(np.float32) * np.ones((5, 1), np.float32)


def built(config: TransformerConfig = SMALL) -> tuple[Transformer, list[Step]]:
    """A model that knows all items, and the steps that it takes from now on."""
    model, taken = Transformer(np.random.default_rng(0), config), []
    learn({"m": model}, as_batches(random_clicks(200, num_items=NUM_ITEMS), [50] * 4))

    def compute(encoder: Encoder, weights: FlatWeights, step: Step) -> Gradient:
        taken.append(step)
        return gradient_of(encoder, weights, step)

    model.compute = compute
    return model, taken


def gradients(step: Step, config: TransformerConfig = SMALL) -> dict[str, torch.Tensor]:
    """The loss and its gradient by name, of the weights that `built` gives, but with places that say nothing."""
    model, _ = built(config)
    with torch.no_grad():
        model.encoder.places.weight.zero_()
    loss, rows, _ = gradient_of(model.encoder, model.adam.weights, step)
    dense = {name: weight.grad for name, weight in model.encoder.named_parameters() if weight.grad is not None}
    return {"loss": loss, "rows": rows, **{name: part.clone() for name, part in dense.items() if "places" not in name}}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        torch.testing.assert_close(found[name], part, rtol=1e-4, atol=2e-7, msg=name)


def test_one_pass_is_all_of_its_examples_but_for_places() -> None:
    wanted = replace(WHOLE, labels=np.ones_like(WHOLE.labels))  # of single examples, skips are put before all else
    model, taken = built()
    model.learn_sequences(wanted, WEIGHTS)
    again, by_example = built()
    again.learn(as_examples(wanted, WEIGHTS))
    assert len(taken[0].targets) == 5
    assert len(by_example[0].targets) == 37
    assert taken[0].until.max() > 0
    assert_equal(gradients(taken[0]), gradients(by_example[0]))


@pytest.mark.parametrize("max_scores", [1, 200, 700])
def test_a_step_in_parts_is_the_whole(monkeypatch: pytest.MonkeyPatch, max_scores: int) -> None:
    model, taken = built(replace(SMALL, dropout=0.3))
    model.learn_sequences(WHOLE, WEIGHTS)
    whole = gradients(taken[0])
    monkeypatch.setattr(steps, "MAX_SCORES", max_scores)
    assert_equal(gradients(taken[0]), whole)


@pytest.mark.parametrize("num_ranks", [2, 7])
def test_the_shares_of_ranks_add_up_with_the_same_dropout(num_ranks: int) -> None:
    model, taken = built(replace(SMALL, dropout=0.3))
    model.learn_sequences(WHOLE, WEIGHTS)
    parts = [gradients(share(taken[0], rank, num_ranks)) for rank in range(num_ranks)]
    whole = gradients(taken[0])
    assert_equal({name: torch.stack([part[name] for part in parts]).sum(dim=0) for name in whole}, whole)


def test_dropout_is_the_seed_s_and_scores_have_none() -> None:
    config = replace(SMALL, dropout=0.3)
    (first, taken), (second, _), (without, _) = built(config), built(config), built()
    for model in (first, second, without):
        for _ in range(3):
            model.learn_sequences(WHOLE, WEIGHTS)
    assert as_bytes({"m": first}) == as_bytes({"m": second})
    assert as_bytes({"m": first}) != as_bytes({"m": without})
    assert not np.array_equal(taken[0].noise, taken[1].noise)
    assert taken[0].noise.mean() == pytest.approx(1, abs=0.02)
    assert (taken[0].noise == 0).mean() == pytest.approx(0.3, abs=0.02)
    np.testing.assert_array_equal(first.score(WHOLE), first.score(replace(WHOLE)))


def test_a_target_without_weight_is_context_alone() -> None:
    model, taken = built()
    weights = WEIGHTS * (np.arange(13) >= 9)
    weights[3] = 0
    model.learn_sequences(WHOLE, weights)
    assert len(taken[0].targets) == 4
    assert taken[0].present.sum() > (taken[0].weights > 0).sum()
    batch = every_target(WHOLE, weights, 12)
    np.testing.assert_array_equal(
        batch.labels, np.where(weights[[0, 1, 2, 4], 1:] > 0, WHOLE.labels[[0, 1, 2, 4], 1:], 0)
    )
    assert (batch.items >= 0).all()


def test_no_more_than_the_window_is_read() -> None:
    model, taken = built(replace(SMALL, window=4))
    model.learn_sequences(WHOLE, WEIGHTS)
    assert taken[0].entries.shape == taken[0].targets.shape == (5, 4)
    longest = every_target(WHOLE, WEIGHTS, 4)
    np.testing.assert_array_equal(longest.query.items[0], WHOLE.items[0, -5:-1])
    np.testing.assert_array_equal(longest.items[0], WHOLE.items[0, -4:])


def test_sequences_without_a_target_teach_nothing() -> None:
    model, taken = built()
    before = as_bytes({"m": model})
    assert isinstance(model, LearnsSequences)
    assert np.isnan(model.learn_sequences(WHOLE, 0 * WEIGHTS))
    assert as_bytes({"m": model}) == before
    assert not taken


@pytest.mark.parametrize("value", [np.nan, -1.0])
def test_weights_that_are_none_are_refused(value: float) -> None:
    model, _ = built()
    weights = WEIGHTS.copy()
    weights[0, 5] = value
    with pytest.raises(ValueError, match="weights"):
        model.learn_sequences(WHOLE, weights)


def test_a_cycle_of_items_is_learned_from_whole_sequences() -> None:
    model = Transformer(np.random.default_rng(0), replace(SMALL, dropout=0.1, dense_rate=3e-3))
    whole = replace(sequences((13,) * 20), items=(np.arange(20)[:, None] + np.arange(13)) % 20)
    whole = replace(whole, labels=np.ones((20, 13), np.float32), signals=np.ones((20, 13), np.uint8))
    losses = [model.learn_sequences(whole, np.ones((20, 13), np.float32)) for _ in range(80)]
    assert losses[-1] < 0.2 * losses[0]
    assert (model.score(whole).argmax(axis=1) == (np.arange(20) + 13) % 20).mean() > 0.9


def test_scores_against_columns_have_the_gradient_of_a_plain_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    states, columns = (torch.randn(num, 8, generator=generator).requires_grad_() for num in (5, 7))
    log_chance, own, hidden = torch.rand(7, generator=generator).log(), torch.arange(5), torch.tensor([[6, 2]] * 5)
    scores = states @ columns.T
    kept = (scores - log_chance).scatter(1, hidden, HIDDEN).scatter(1, own[:, None], HIDDEN)
    expected = (kept.logsumexp(dim=1), scores.gather(1, own[:, None])[:, 0])
    found = against_columns(states, columns, log_chance, own, hidden)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(2, 5, generator=generator)
    gradients = [
        torch.autograd.grad(weights[0] @ total + weights[1] @ score, (states, columns), retain_graph=True)
        for total, score in (found, expected)
    ]
    torch.testing.assert_close(*gradients)
