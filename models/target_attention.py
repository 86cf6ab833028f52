# Attention over a history that depends on the target, and the network that scores a target by what it gathered.
from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_GAPS: Final = 32  # powers of two of seconds: beyond a century all gaps are one


class History(NamedTuple):
    """B histories of L entries, projected: all that scoring needs of them. N heads of k numbers; entry 0 is no item."""

    keys: Tensor  # [B, N, 1 + L, k] of a length that says how sharply the head looks
    values: Tensor  # [B, N, 1 + L, d] what each head adds to what is gathered: R_n B_c u
    bias: Tensor  # [B, N, 1 + L] of each entry's logit, -inf where there is none


class Targets(NamedTuple):
    """C items for all histories, or for each of B its own, projected: what scoring needs of them, whatever the history.

    Every shape begins with [C] or [B, C].
    """

    keys: Tensor  # [C, N, k] of length 1
    values: Tensor  # [C, d]
    inner: Tensor  # [C, h] the item's own part of the network's hidden layer
    bias: Tensor  # [C]

    def at(self, places: Tensor) -> Targets:
        """Those at some places, of any shape."""
        return Targets(*(part[places] for part in self))


class TargetAttention(nn.Module):
    """AI2V's scorer (Barkan et al. 2020), with skips, recency and one entry that stands for no item at all.

    It begins as Item2Vec's dot product: projections are identities, and the hidden layer's units come in pairs that
    add up u o v over some of the dimensions and take it apart by sign, for relu(x) - relu(-x) = x.
    """

    def __init__(self, width: int, window: int, num_heads: int, num_hidden: int) -> None:
        super().__init__()
        if width % num_heads or num_hidden % 2 or width % (num_hidden // 2):
            raise ValueError(
                f"width {width} is to be a multiple of num_heads {num_heads} and of half of num_hidden {num_hidden}"
            )
        self.num_heads = num_heads
        self.context_key = nn.Linear(width, width, bias=False)  # A_c, the rows of all heads
        self.target_key = nn.Linear(width, width, bias=False)  # A_t
        self.context_value = nn.Linear(width, width, bias=False)  # B_c
        self.target_value = nn.Linear(width, width, bias=False)  # B_t
        self.gathered = nn.Linear(width, width, bias=False)  # R
        self.log_scale = nn.Parameter(torch.empty(num_heads))  # of cosines, which else hardly tell entries apart
        self.places = nn.Embedding(window, num_heads)  # by place, counted from the newest
        self.gaps = nn.Embedding(NUM_GAPS, num_heads)  # by log2 of seconds since
        self.signals = nn.Embedding(256, num_heads)
        self.sessions = nn.Embedding(2, num_heads)
        self.unwanted = nn.Parameter(torch.empty(width))  # factors of what was skipped
        self.nothing = nn.Parameter(torch.empty(width))  # the vector of entry 0
        self.inner_target = nn.Linear(width, num_hidden)  # W_0 in its four parts
        self.inner_gathered = nn.Linear(width, num_hidden, bias=False)
        self.inner_product = nn.Linear(width, num_hidden, bias=False)
        self.inner_distance = nn.Linear(width, num_hidden, bias=False)
        self.outer = nn.Parameter(torch.empty(num_hidden))  # W_1

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew: Item2Vec's dot product with the decayed mean of the history, and a little noise."""
        width, num_hidden, num_heads = len(self.unwanted), len(self.outer), self.num_heads
        with torch.no_grad():
            for weight in self.parameters():
                weight.zero_()
            for projection in (self.context_key, self.target_key, self.context_value, self.target_value, self.gathered):
                projection.weight.copy_(torch.eye(width))
            self.log_scale.fill_(1.0)
            self.unwanted.fill_(-1.0)
            self.nothing.normal_(0.0, 0.02, generator=generator)  # not 0, which has no direction
            slopes = 0.5 * 0.25 ** torch.arange(num_heads)  # heads look back ever further
            self.places.weight.copy_(-torch.arange(len(self.places.weight))[:, None] * slopes)
            for part in (self.inner_target, self.inner_gathered, self.inner_product, self.inner_distance):
                part.weight.normal_(0.0, 0.02, generator=generator)
            signs = torch.ones(num_hidden)
            signs[1::2] = -1.0
            blocks = torch.eye(num_hidden // 2).repeat_interleave(2, 0).repeat_interleave(2 * width // num_hidden, 1)
            self.inner_product.weight.add_(signs[:, None] * blocks)
            self.outer.copy_(signs)

    def history(
        self, vectors: Tensor, known: Tensor, wanted: Tensor, signals: Tensor, in_session: Tensor, gaps: Tensor
    ) -> History:
        """From context vectors [B, L, d] and what is known of each entry [B, L]: `known` has a vector, `wanted` has
        label 1; `signals` are codes, `in_session` 0 or 1, `gaps` below NUM_GAPS."""
        length = vectors.shape[1]
        nothing = self.nothing.expand(len(vectors), 1, -1)
        signed = torch.where(
            wanted[:, :, None], vectors, vectors * self.unwanted
        )  # what is like a skip looks there too
        vectors, signed = torch.cat([nothing, vectors], dim=1), torch.cat([nothing, signed], dim=1)
        places = self.places.weight[torch.arange(length - 1, -1, -1, device=vectors.device)]
        bias = places + self.gaps(gaps) + self.signals(signals) + self.sessions(in_session)
        bias = functional.pad(bias.masked_fill(~known[:, :, None], -torch.inf), (0, 0, 1, 0))
        keys = functional.normalize(self._heads(self.context_key(vectors)), dim=3) * self.log_scale.exp()[:, None]
        parts = self._heads(self.context_value(signed)).transpose(1, 2)  # [B, N, 1 + L, k]
        values = parts @ self._heads(self.gathered.weight).permute(1, 2, 0)
        return History(keys.transpose(1, 2), values, bias.transpose(1, 2))

    def targets(self, vectors: Tensor, bias: Tensor) -> Targets:
        """From target vectors [C, d] and biases [C]."""
        values = self.target_value(vectors)
        keys = functional.normalize(self._heads(self.target_key(vectors)), dim=2)
        return Targets(keys, values, self.inner_target(values), bias)

    def forward(self, history: History, targets: Targets) -> Tensor:
        """[B, C] scores."""
        keys = targets.keys.transpose(-3, -2)  # [N, C, k] or [B, N, C, k]
        logits = keys @ history.keys.transpose(2, 3) + history.bias[:, :, None]  # [B, N, C, 1 + L]
        shares = torch.softmax(logits, dim=3).transpose(1, 2).flatten(2)  # [B, C, N (1 + L)]
        gathered = shares @ history.values.flatten(1, 2)  # [B, C, d]
        inner = self.inner_gathered(gathered) + self.inner_product(gathered * targets.values)
        inner = inner + self.inner_distance((gathered - targets.values).abs()) + targets.inner
        scores: Tensor = functional.relu(inner) @ self.outer + targets.bias
        return scores

    def _heads(self, x: Tensor) -> Tensor:
        """[..., N, k] of [..., d]"""
        return x.view(*x.shape[:-1], self.num_heads, -1)
