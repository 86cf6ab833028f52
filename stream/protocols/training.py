# Training by epochs, for protocols that allow it: the same `learn` as on a stream, over the same examples again.
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import torch

from models.base import LearnsSequences, Model
from models.configured import config_of
from models.registry import build_models, parts_of
from stream.protocols.interactions import Interactions

LIVE_EXAMPLES: Final = 16  # between two updates, where a mixture learns which part to trust


@dataclass(frozen=True)
class Training:
    """How a model is trained under a protocol: settings chosen on validation data."""

    epochs: int = 1  # counters count once
    keys: Mapping[str, object] = field(default_factory=dict)  # what differs from the model's defaults
    sequences: int = 0  # whole ones of a batch, learned at rates that fall to 0; 0: one example at a time


# SASRec's window, layers and first vectors (models.md §22); all items compete, as with its cross-entropy. The rows have
# a data set to settle on, not a stream to follow: their squared gradients never shrink.
_WHOLE: Final = {
    "window": 200,
    "num_layers": 2,
    "has_distances": True,
    "init_scale": 0.02,
    "row_decay": 1.0,
    "whole_catalogue": 5000,
    "dropout": 0.15,
}
WHOLE_SEQUENCES: Final = Training(12, _WHOLE, sequences=16)


class Lessons(NamedTuple):
    """What is learned, and as what batches where it is learned one example at a time."""

    data: Interactions
    size: int  # examples of a batch
    max_entries: int  # of a history
    is_stream: bool = False  # each epoch in the order of time, or in one drawn anew


def trained(
    names: tuple[str, ...],
    trainings: Mapping[str, Training],
    seed: int,
    lessons: Lessons,
    say: Callable[[str], None],
) -> tuple[dict[str, Model], dict[str, object]]:
    """Models by name and the parts they mix, each trained for its epochs; and how, for metrics.json.

    In every epoch each batch is learned by the models that are not done, in their order. Those that learn whole
    sequences do so apart. A mixture learns from what its parts say of interactions that they have not learned: each
    user's last, which the parts are trained without, and which all then learn as a stream, once, the mixture first.
    """
    torch.set_num_threads(1)  # sums in one order, whatever the number of cores: the figures do not depend on it
    models = build_models(names, seed, {name: training.keys for name, training in trainings.items() if training.keys})
    of = {name: trainings.get(name, Training()) for name in models}
    mixtures = [name for name in models if parts_of(name, of[name].keys)]
    parts = {name: model for name, model in models.items() if name not in mixtures}
    begun = lessons._replace(data=lessons.data.less_last()) if mixtures else lessons
    _by_example({name: model for name, model in parts.items() if not of[name].sequences}, of, seed, begun, say)
    for name, model in parts.items():
        if of[name].sequences:
            _by_sequence(model, of[name], np.random.default_rng(seed), begun.data, say)
    if mixtures:
        _live(models, np.random.default_rng(seed), lessons)
    config: dict[str, object] = {
        name: {"epochs": of[name].epochs, "sequences": of[name].sequences, **config_of(model)}
        for name, model in models.items()
    }
    return models, config


def _by_example(
    models: Mapping[str, Model],
    trainings: Mapping[str, Training],
    seed: int,
    lessons: Lessons,
    say: Callable[[str], None],
) -> None:
    rng = np.random.default_rng(seed)
    last = max((trainings[name].epochs for name in models), default=0)
    for number in range(last):
        learning = [model for name, model in models.items() if number < trainings[name].epochs]
        drawn = lessons.data.streamed if lessons.is_stream else lessons.data.batches
        batches = drawn(rng, lessons.size, lessons.max_entries)
        losses = [[model.learn(batch) for model in learning] for batch in batches]
        means = [sum(of) / len(of) for of in zip(*losses, strict=True)]
        told = [f"{model.name} {mean:.4f}" for model, mean in zip(learning, means, strict=False) if mean == mean]
        say(", ".join([f"epoch {number + 1} of {last}", *told]))


def _live(models: Mapping[str, Model], rng: np.random.Generator, lessons: Lessons) -> None:
    """Each user's last interaction, learned once by every model: a mixture before its parts."""
    for batch in lessons.data.batches(rng, LIVE_EXAMPLES, lessons.max_entries, lessons.data.is_last):
        for model in models.values():
            model.learn(batch)


def _by_sequence(
    model: Model, training: Training, rng: np.random.Generator, data: Interactions, say: Callable[[str], None]
) -> None:
    assert isinstance(model, LearnsSequences), f"{model.name} learns no sequences"
    for number in range(training.epochs):
        model.pace = 1 - number / training.epochs
        losses = [model.learn_sequences(*part) for part in data.sequences(rng, training.sequences, model.window)]
        say(f"epoch {number + 1} of {training.epochs}, {model.name} {np.mean(losses):.4f}")
