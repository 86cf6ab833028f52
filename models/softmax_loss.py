# The softmax over all items, estimated from a few that compete.
from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

HIDDEN: Final = -1e4  # logit of what does not compete; finite, so that a lone target has a gradient (of 0)
NOTHING: Final = (
    -50.0
)  # logit below the highest that adds nothing in float32; of much lower ones exp and products are slow
IN_CACHES: Final = 2**18  # scores, 1 MB


def sampled_softmax(competing: Tensor, own: Tensor, log_chance: Tensor, hidden: Tensor, signs: Tensor) -> Tensor:
    """[B] losses log(1 + e^m), m = log sum_j e^{s_j} / chance_j - s_y: -log of the target's share where it is wanted
    (sign 1), -log of all others' where it is skipped (sign -1: log(1 + e^-m)).

    `competing` [B, C] are the scores s_j, `own` [B] is s_y; `log_chance` [C] says how likely each was among them,
    `hidden` [B, C] which do not compete.
    """
    competing = (competing - log_chance).masked_fill(hidden, HIDDEN)
    return functional.softplus((torch.logsumexp(competing, dim=1) - own) * signs)


def against_columns(
    states: Tensor, columns: Tensor, log_chance: Tensor, own: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """[N] log sum_j e^{s_j} / chance_j of N states over the columns that compete, and [N] the score of each own one.

    `states` [N, d], `columns` [C, d], `log_chance` [C]; `own` [N] is the place of a state's target among the columns,
    which does not compete with itself, and `hidden` [N, K] are those of others that do not.
    """
    total, own_scores = _Softmax.apply(states, columns, log_chance, own, hidden)  # type: ignore[no-untyped-call]
    return total, own_scores


class _Softmax(Function):
    """What autograd would do, in one buffer and a few rows at a time: over thousands of columns a softmax waits for
    memory, not for arithmetic (a third of the time with 200 states and 3,706 columns)."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, states: Tensor, columns: Tensor, log_chance: Tensor, own: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        shares, own_scores = states.new_empty(len(states), len(columns)), states.new_empty(len(states))
        total, highest = states.new_empty(len(states), 1), states.new_empty(len(states), 1)
        for rows in _in_caches(shares):
            scores, target = torch.mm(states[rows], columns.T, out=shares[rows]), own[rows, None]
            own_scores[rows] = scores.gather(1, target)[:, 0]
            scores.sub_(log_chance).scatter_(1, hidden[rows], HIDDEN).scatter_(1, target, HIDDEN)
            highest[rows] = scores.amax(dim=1, keepdim=True)
            total[rows] = scores.sub_(highest[rows]).clamp_(min=NOTHING).exp_().sum(dim=1, keepdim=True)
        ctx.save_for_backward(states, columns, own, shares, total)
        return (total.log() + highest)[:, 0], own_scores

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, of_total: Tensor, of_own: Tensor) -> tuple[Tensor | None, ...]:
        states, columns, own, shares, total = ctx.saved_tensors  # type: ignore[attr-defined]
        of_states, of_columns = torch.empty_like(states), torch.zeros_like(columns)
        for rows in _in_caches(shares):
            of_scores = shares[rows].mul_(of_total[rows, None] / total[rows])
            of_scores.scatter_(1, own[rows, None], of_own[rows, None])
            torch.mm(of_scores, columns, out=of_states[rows])
            of_columns.addmm_(of_scores.T, states[rows])
        return of_states, of_columns, None, None, None


def _in_caches(scores: Tensor) -> Iterator[slice]:
    """Slices of the rows of scores [N, C] that stay in the caches of a core while they are computed with."""
    size = max(IN_CACHES // scores.shape[1], 1)
    return (slice(first, first + size) for first in range(0, len(scores), size))
