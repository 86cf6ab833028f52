# One step of CoNet: users, single items and pairs of items, its loss and the gradient of that.
from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.optimizer import FlatWeights


class Tower(nn.Module):
    """From a user's vector p and a pair's vector v to a number: w . relu(W_L … relu(W_1 [p; v] + b_1) …).

    The last layer is 0 at first, so that a pair is at first what dot products say of it.
    """

    def __init__(self, width: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (2 * width, *hidden)
        self.layers = nn.ModuleList(nn.Linear(*shape) for shape in pairwise(sizes))
        self.out = nn.Linear(sizes[-1], 1, bias=False)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew, as He et al. 2015 have it for rectifiers."""
        with torch.no_grad():
            for weight in self.parameters():
                if weight.dim() > 1:
                    weight.normal_(0, (2 / weight.shape[1]) ** 0.5, generator=generator)
                else:
                    weight.zero_()
            self.out.weight.zero_()

    def forward(self, users: Tensor, pairs: Tensor) -> Tensor:
        """[…] of users [… or 1, d] and pairs […, d]."""
        x = torch.cat([users.expand_as(pairs), pairs], dim=-1)
        for layer in self.layers:
            x = functional.relu(layer(x))
        number: Tensor = self.out(x)[..., 0]
        return number


@dataclass(frozen=True, slots=True)
class PairStep:
    """B examples of N users, and the R items that occur: as targets, partners, C negatives and their partners.

    Rows of items are [q; b] and those of users [p; c], a vector and a bias. Everything random is drawn already.
    """

    users: NDArray[np.float32]  # [N, d + 1]
    items: NDArray[np.float32]  # [R, d + 1]
    user_places: NDArray[np.int64]  # [B] places in `users`
    targets: NDArray[np.int64]  # [B] places in `items`, as all that follow
    partners: NDArray[np.int64]  # [B] of wanted targets: another item that the user wanted, or the target itself
    negatives: NDArray[np.int64]  # [C]
    counts: NDArray[np.float32]  # [C] how many of the negatives that a wanted example has each stands for
    pair_negatives: NDArray[np.int64]  # [B, K]
    pair_partners: NDArray[np.int64]  # [B, K]
    pair_count: float  # how many of an example's negative pairs each of the K stands for
    is_wanted: NDArray[np.bool_]  # [B]
    weights: NDArray[np.float32]  # [B]
    penalty: float
    pair_weight: float


class PairGradient(NamedTuple):
    """Of a step's loss."""

    loss: Tensor  # []
    users: Tensor  # [N, d + 1]
    items: Tensor  # [R, d + 1]
    dense: Tensor  # [P] of the tower


def scored(users: Tensor, items: Tensor) -> Tensor:
    """[…] s = p.q + b + c of rows of users [… or 1, d + 1] and of items […, d + 1]."""
    scores: Tensor = (users[..., :-1] * items[..., :-1]).sum(dim=-1) + items[..., -1] + users[..., -1]
    return scores


def attended(tower: Tower, users: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """[…] the logit of pairs, of rows as `scored` takes them.

    s = p.q + b + c of each; a = sigmoid(s_i - s_j); v = a q_i + (1 - a) q_j; a s_i + (1 - a) s_j + tower([p; v]).
    """
    scores = [scored(users, rows) for rows in (first, second)]
    share = torch.sigmoid(scores[0] - scores[1])
    mixed = share[..., None] * first[..., :-1] + (1 - share[..., None]) * second[..., :-1]
    logits: Tensor = share * scores[0] + (1 - share) * scores[1] + tower(users[..., :-1], mixed)
    return logits


def loss_of(tower: Tower, step: PairStep, users: Tensor, items: Tensor) -> Tensor:
    """[] the weighted sum over examples.

    A wanted target: log(1 + e^-s) of itself and log(1 + e^s) of its negatives; `pair_weight` times the same of a pair
    that holds it and of pairs that hold a negative. An unwanted target: log(1 + e^s) of itself alone, in no pair.
    """
    own, targets = users[step.user_places], items[step.targets]
    wanted = torch.from_numpy(step.is_wanted).float()
    weights = torch.from_numpy(step.weights)
    scores = scored(own, targets)
    losses = functional.softplus(torch.where(wanted > 0, -scores, scores))
    columns, counts = items[step.negatives], torch.from_numpy(step.counts)
    others = functional.softplus(own[:, :-1] @ columns[:, :-1].T + columns[:, -1] + own[:, -1:])
    is_own = torch.from_numpy(step.negatives[None] == step.targets[:, None])
    losses = losses + wanted * (others.masked_fill(is_own, 0.0) @ counts)
    if step.pair_weight > 0:
        pair = attended(tower, own, targets, items[step.partners])
        pairs = attended(tower, own[:, None], items[step.pair_negatives], items[step.pair_partners])
        of_pairs = functional.softplus(-pair) + step.pair_count * functional.softplus(pairs).sum(dim=1)
        losses = losses + step.pair_weight * wanted * of_pairs
    size = (own[:, :-1] ** 2).sum(dim=1) * (1 + wanted * counts.sum()) + (targets[:, :-1] ** 2).sum(dim=1)
    size = size + wanted * (counts @ (columns[:, :-1] ** 2).sum(dim=1))
    loss: Tensor = (losses + 0.5 * step.penalty * size) @ weights
    return loss


def gradient_of(tower: Tower, weights: FlatWeights, step: PairStep) -> PairGradient:
    """The gradient of a step; the next call writes over its dense part."""
    users = torch.from_numpy(step.users).requires_grad_()
    items = torch.from_numpy(step.items).requires_grad_()
    weights.gradient.zero_()
    loss = loss_of(tower, step, users, items)
    loss.backward()  # type: ignore[no-untyped-call]
    assert users.grad is not None
    assert items.grad is not None
    return PairGradient(loss.detach(), users.grad, items.grad, weights.gradient)
