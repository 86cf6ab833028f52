# What a published protocol is: data of its own, a run that trains and tests models, and the figures it is held against.
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Reference(NamedTuple):
    """A figure of others, or a floor of a simple method, under the same protocol."""

    name: str
    metrics: Mapping[str, float]
    source: str


class Trial(NamedTuple):
    """One run of a protocol: where data sets lie, what is tested, and the seed of everything random."""

    data: Path
    models: tuple[str, ...]
    seed: int
    say: Callable[[str], None]  # tells a person how far it is


@dataclass(frozen=True)
class Outcome:
    """What one run gave."""

    num_events: int  # learned from, each counted once
    models: Mapping[str, Mapping[str, NDArray[np.float64]]]  # model → metric → [tests] what each test counts
    config: Mapping[str, object] = field(default_factory=dict)  # settings of models and training


@dataclass(frozen=True)
class Protocol:
    """A protocol by the name it is published under.

    `run` raises DataError naming a file that is absent or wrong. A protocol without chance in it need not look at the
    seed: models have their own.
    """

    name: str
    stream: str  # the data, as metrics.json names it
    metrics: tuple[str, ...]  # in the order of the table
    models: tuple[str, ...]  # tested unless others are named
    references: tuple[Reference, ...]
    run: Callable[[Trial], Outcome]
