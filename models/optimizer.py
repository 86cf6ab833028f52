# Optimisers that never die on an endless stream: Adam for the dense part, Adagrad with decay for rows.
from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class FlatWeights:
    """All weights of a module as one vector, and their gradient as another; the module's own become views of them."""

    def __init__(self, module: nn.Module) -> None:
        weights = list(module.parameters())
        self.values = torch.cat([weight.detach().reshape(-1) for weight in weights])  # [P]
        self.gradient = torch.zeros_like(self.values)  # [P]
        start = 0
        for weight in weights:
            part = slice(start, start + weight.numel())
            weight.data = self.values[part].view_as(weight)
            weight.grad = self.gradient[part].view_as(weight)
            start = part.stop


def dense_of(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    """A module's weights by name, copied."""
    return {name: weight.detach().numpy().copy() for name, weight in module.named_parameters()}


def load_dense(module: nn.Module, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Write weights of these names into a module, in place."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(torch.from_numpy(np.asarray(weights[name], np.float32)))


class DenseAdam:
    """Adam (Kingma & Ba 2015) over all weights of a module as one vector: five operations a step."""

    def __init__(self, weights: FlatWeights, learning_rate: float, betas: tuple[float, float] = (0.9, 0.98)) -> None:
        self.learning_rate, self.betas, self.weights = learning_rate, betas, weights
        self.mean, self.square = torch.zeros_like(weights.values), torch.zeros_like(weights.values)
        self.num_steps = 0

    def step(self, gradient: Tensor, pace: float = 1.0) -> None:
        """One step along a gradient [P], at a part of the learning rate."""
        self.num_steps += 1
        self.mean.lerp_(gradient, 1 - self.betas[0])
        self.square.mul_(self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
        rate = self.learning_rate * (1 - self.betas[1] ** self.num_steps) ** 0.5 / (1 - self.betas[0] ** self.num_steps)
        self.weights.values.addcdiv_(self.mean, self.square.sqrt().add_(1e-8), value=-rate * pace)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Moments and step count, copied."""
        return {
            "adam_mean": self.mean.numpy().copy(),
            "adam_square": self.square.numpy().copy(),
            "adam_steps": np.array([self.num_steps], np.int64),
        }

    def load(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over what `state` gave."""
        self.mean.copy_(torch.from_numpy(state["adam_mean"]))
        self.square.copy_(torch.from_numpy(state["adam_square"]))
        self.num_steps = int(state["adam_steps"][0])


def adagrad_rows(
    values: Tensor, squares: Tensor, rows: Tensor, gradient: Tensor, learning_rate: float, decay: float
) -> None:
    """Adagrad (Duchi et al. 2011) on `rows` (each once) of values [N, d] and squares [N, d], or [N, 1]: of their mean.

    The squares shrink by `decay` at each of a row's own updates, so its steps do not vanish on an endless stream.
    """
    grown = squares[rows].mul_(decay)
    if squares.shape == values.shape:
        grown.addcmul_(gradient, gradient)
    else:
        grown.add_((gradient * gradient).mean(dim=1, keepdim=True))
    squares[rows] = grown
    values.index_add_(0, rows, gradient / grown.add(1e-12).sqrt_(), alpha=-learning_rate)
