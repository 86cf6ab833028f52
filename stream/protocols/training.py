# Training by epochs, for protocols that allow it: the same `learn` as on a stream, over the same examples again.
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from models.base import Batch, Model
from models.registry import build_models
from stream.rebuild import config_of


@dataclass(frozen=True)
class Training:
    """How a model is trained under a protocol: settings chosen on validation data."""

    epochs: int = 1  # counters count once
    keys: Mapping[str, object] = field(default_factory=dict)  # what differs from the model's defaults


def trained(
    names: tuple[str, ...],
    trainings: Mapping[str, Training],
    seed: int,
    epoch: Callable[[np.random.Generator], Iterator[Batch]],
    say: Callable[[str], None],
) -> tuple[dict[str, Model], dict[str, object]]:
    """Models by name and the parts they mix, each trained for its epochs; and how, for metrics.json.

    In every epoch each batch is learned by the models that are not done, in their order: a mixture before its parts.
    """
    torch.set_num_threads(1)  # sums in one order, whatever the number of cores: the figures do not depend on it
    models = build_models(names, seed, {name: training.keys for name, training in trainings.items() if training.keys})
    epochs = {name: trainings.get(name, Training()).epochs for name in models}
    rng = np.random.default_rng(seed)
    for number in range(max(epochs.values())):
        learning = [model for name, model in models.items() if number < epochs[name]]
        losses = [[model.learn(batch) for model in learning] for batch in epoch(rng)]
        means = [sum(of) / len(of) for of in zip(*losses, strict=True)]
        told = [f"{model.name} {mean:.4f}" for model, mean in zip(learning, means, strict=False) if mean == mean]
        say(", ".join([f"epoch {number + 1} of {max(epochs.values())}", *told]))
    config: dict[str, object] = {name: {"epochs": epochs[name], **config_of(model)} for name, model in models.items()}
    return models, config
