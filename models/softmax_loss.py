# The softmax over all items, estimated from a few that compete.
from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

HIDDEN: Final = -1e4  # logit of what does not compete; finite, so that a lone target has a gradient (of 0)


def sampled_softmax(competing: Tensor, own: Tensor, log_chance: Tensor, hidden: Tensor, signs: Tensor) -> Tensor:
    """[B] losses log(1 + e^m), m = log sum_j e^{s_j} / chance_j - s_y: -log of the target's share where it is wanted
    (sign 1), -log of all others' where it is skipped (sign -1: log(1 + e^-m)).

    `competing` [B, C] are the scores s_j, `own` [B] is s_y; `log_chance` [C] says how likely each was among them,
    `hidden` [B, C] which do not compete.
    """
    competing = (competing - log_chance).masked_fill(hidden, HIDDEN)
    return functional.softplus((torch.logsumexp(competing, dim=1) - own) * signs)
