# One step of the transformer: all that its gradient is computed from, in whatever process, and that gradient.
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Final, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.attention import Encoder
from models.optimizer import FlatWeights
from models.softmax_loss import sampled_softmax

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Step:
    """B examples whose histories have L entries, the R items that occur in them, and the C of these that compete.

    Everything random is drawn already: this and the dense weights decide the gradient.
    """

    vectors: NDArray[np.float32]  # [R, d]
    columns: NDArray[np.int64]  # [C] places in `vectors` of the items that compete
    log_chance: NDArray[np.float32]  # [C] log of the chance that each had to be among them
    total_weight: NDArray[np.float32]  # [] which the weighted losses are divided by: that of the whole batch
    entries: NDArray[np.int64]  # [B, L] places in `vectors`; any where `known` is not set
    known: NDArray[np.bool_]  # [B, L] has a vector
    present: NDArray[np.bool_]  # [B, L] is no padding
    wanted: NDArray[np.bool_]  # [B, L] has label 1
    signals: NDArray[np.int64]  # [B, L] codes
    in_session: NDArray[np.int64]  # [B, L] 0 or 1
    targets: NDArray[np.int64]  # [B] places in `columns`
    hidden: NDArray[np.bool_]  # [B, C] does not compete: the target, and items of its session
    signs: NDArray[np.float32]  # [B] 1 for a wanted target, -1 for a skipped one
    weights: NDArray[np.float32]  # [B]


SHARED: Final = {"vectors", "columns", "log_chance", "total_weight"}  # fields that have no row an example


class Gradient(NamedTuple):
    """Of a step's loss; parts of a batch add up to the whole in all three."""

    loss: Tensor  # []
    rows: Tensor  # [R, d] of `Step.vectors`
    dense: Tensor  # [P] of the encoder's weights


Compute: TypeAlias = Callable[[Encoder, FlatWeights, Step], Gradient]


def share(step: Step, rank: int, num_ranks: int) -> Step:
    """The part of a step's examples that falls to a rank: as many for each as can be, in their order, perhaps none."""
    num = len(step.targets)
    rows = slice(num * rank // num_ranks, num * (rank + 1) // num_ranks)
    return replace(step, **{key.name: getattr(step, key.name)[rows] for key in fields(step) if key.name not in SHARED})


def gradient_of(encoder: Encoder, weights: FlatWeights, step: Step) -> Gradient:
    """The gradient of a step, computed where the encoder's weights are; the next call writes over its dense part."""

    def placed(values: NDArray[_Scalar]) -> Tensor:
        return torch.from_numpy(values).to(weights.values.device)

    vectors = placed(step.vectors).requires_grad_()
    entries = functional.embedding(placed(step.entries), vectors)
    others = (step.known, step.present, step.wanted, step.signals, step.in_session)
    states = encoder(entries, *map(placed, others))[:, 0]
    logits = states @ vectors[placed(step.columns)].T
    target = logits.gather(1, placed(step.targets)[:, None])[:, 0]
    losses = sampled_softmax(logits, target, placed(step.log_chance), placed(step.hidden), placed(step.signs))
    loss = (losses * placed(step.weights)).sum() / placed(step.total_weight)
    weights.gradient.zero_()
    loss.backward()  # type: ignore[no-untyped-call]
    assert vectors.grad is not None
    return Gradient(loss.detach(), vectors.grad, weights.gradient)
