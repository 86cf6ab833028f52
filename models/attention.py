# The causal encoder: from the vectors of a history to one state a query.
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Pre-norm self-attention and feed-forward, each added to its input (Xiong et al. 2020)."""

    def __init__(self, width: int, num_heads: int, reach: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.distances = nn.Parameter(torch.empty(reach, num_heads)) if reach else None
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 2 * width)
        self.feed_out = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, hidden: Tensor, num_last: int, noise: Tensor) -> Tensor:
        """States [B, num_last, d] of the last positions of x [B, L, d]; `hidden` [B, 1, L, L] is -inf where blocked.

        `noise` [B, 2, L, d] are factors of what each half adds; [B, 0, L, d] is none.
        """
        batch, length, width = x.shape
        heads = (self.num_heads, width // self.num_heads)
        normed = self.norm(x)
        query = self.query(normed[:, length - num_last :]).view(batch, num_last, *heads).transpose(1, 2)
        key, value = self.key_value(normed).view(batch, length, 2, *heads).permute(2, 0, 3, 1, 4)
        logits = query @ key.transpose(2, 3) * heads[1] ** -0.5 + hidden[:, :, length - num_last :]
        if self.distances is not None:
            logits = logits + functional.embedding(distances(length, num_last, x.device), self.distances).permute(
                2, 0, 1
            )
        mixed = (torch.softmax(logits, dim=3) @ value).transpose(1, 2).reshape(batch, num_last, width)
        x = x[:, length - num_last :] + noisy(self.out(mixed), noise, 0)
        fed = self.feed_out(functional.gelu(self.feed_in(self.feed_norm(x)), approximate="tanh"))
        return x + noisy(fed, noise, 1)


def distances(length: int, num_last: int, device: torch.device) -> Tensor:
    """[num_last, length] how far the last entries are from each, 0 from those after them."""
    at = torch.arange(length, device=device)
    return (at[length - num_last :, None] - at).clamp_(min=0)


def noisy(x: Tensor, noise: Tensor, number: int) -> Tensor:
    """States x [B, T, d] times the factors of their number in noise [B, S, L, d]; as they are where S is 0."""
    return x * noise[:, number, noise.shape[2] - x.shape[1] :] if noise.shape[1] else x


class Encoder(nn.Module):
    """A SASRec-like encoder (Kang & McAuley 2018), pre-norm, read at the newest position.

    An entry enters as its item's vector plus vectors of its signal, of its place counted from the newest, and of
    whether it belongs to the session. So a longer padding on the left changes nothing. The vector of an unwanted item
    (label 0) is multiplied by learned factors, -1 at first: a skip turns away from an item before any was learned.
    What speaks for taking an item of the session again is a vector by its place, added to the item's.

    With `reach`, the window or 0, attention knows distances too: a number for each, learned from -log(1 + distance) on,
    by head (more in the later ones), is added to its logits. Places say as much where only the newest state is read;
    where all are, each state sees other places, and the same distances.
    """

    def __init__(self, width: int, window: int, num_layers: int, num_heads: int, reach: int = 0) -> None:
        super().__init__()
        self.shape = (width, window, num_layers, num_heads, reach)
        self.signals = nn.Embedding(256, width)
        self.places = nn.Embedding(window, width)
        self.sessions = nn.Embedding(2, width)
        self.returns = nn.Embedding(window, width)
        self.unwanted = nn.Parameter(torch.empty(width))
        self.unknown = nn.Parameter(torch.empty(width))  # stands for an item without a vector, and for no history
        self.blocks = nn.ModuleList(Block(width, num_heads, reach) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew: normal(0, 0.02), but 0 for biases, 1 for the scales of norms, -1 for `unwanted`."""
        for name, weight in self.named_parameters():
            with torch.no_grad():
                if name == "unwanted":
                    weight.fill_(-1.0)
                elif name.endswith("distances"):
                    share = torch.arange(1, weight.shape[1] + 1) / weight.shape[1]
                    weight.copy_(-torch.arange(1, len(weight) + 1).log()[:, None] * share)
                elif weight.dim() > 1 or name == "unknown":
                    weight.normal_(0.0, 0.02, generator=generator)
                else:
                    weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)

    def forward(
        self,
        vectors: Tensor,
        known: Tensor,
        present: Tensor,
        wanted: Tensor,
        signals: Tensor,
        in_session: Tensor,
        num_last: int = 1,
        noise: Tensor | None = None,
    ) -> Tensor:
        """States [B, num_last, d] from item vectors [B, L, d] and what is known of each entry [B, L].

        `known` has a vector, `present` is no padding, `wanted` has label 1; `signals` are codes, `in_session` 0 or 1.
        `noise` [B, 1 + 2 * num_layers, L, d] are the factors of dropout; none, or [B, 0, L, d], is without.
        """
        noise = vectors[:, None][:, :0] if noise is None else noise
        length = vectors.shape[1]
        vectors = torch.where(wanted[:, :, None], vectors, vectors * self.unwanted)
        x = torch.where(known[:, :, None], vectors, self.unknown)
        places = self.places.weight[torch.arange(length - 1, -1, -1, device=x.device)]
        x = x + (places + self.signals(signals) + self.sessions(in_session)) * present[:, :, None]
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=x.device)  # readable, if nothing else is
        readable = (present[:, None, :] & causal) | itself
        hidden = torch.zeros(readable.shape, device=x.device).masked_fill_(~readable, -torch.inf)[:, None]
        x = noisy(x, noise, 0)
        for number, block in enumerate(self.blocks):
            num = num_last if number == len(self.blocks) - 1 else length
            x = block(x, hidden, num, noise[:, 1 + 2 * number : 3 + 2 * number])
        states: Tensor = self.norm(x[:, x.shape[1] - num_last :])
        return states

    def returning(self, states: Tensor, length: int) -> Tensor:
        """[B, T, L] what is added to the score of each entry's item, if the session holds it, in the T newest states.

        Where a state does not know an entry yet, it means nothing.
        """
        places = distances(length, states.shape[1], states.device)  # of each entry, counted from each state
        return (states @ self.returns.weight.T).gather(2, places.expand(len(states), -1, -1))
