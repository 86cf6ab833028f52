# A delta in memory: what one commit of a stage changed.
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from state.catalogue import CatalogueItem
from state.entry import ENTRY


@dataclass(slots=True)
class Rows:
    """Rows of a table by item: what was touched, as it is served."""

    numbers: NDArray[np.int64]  # [N] item numbers
    data: NDArray[np.floating]  # [N, width] float16 or float64


@dataclass(slots=True)
class UserRows:
    """Rows of a table by user."""

    users: list[bytes]
    data: NDArray[np.floating]  # [N, width] float16


@dataclass(slots=True)
class Cells:
    """Cells of a table of counts; a count of 0 removes its cell."""

    rows: NDArray[np.int64]  # [N] item numbers
    columns: NDArray[np.int64]  # [N] item numbers
    counts: NDArray[np.float32]  # [N]


@dataclass(slots=True)
class ModelDelta:
    """What one version changed of a model, by table.

    `replaces`: all that earlier versions said of the model goes first. `gone`: rows that go before `rows` are set.
    `config`: how to build it, canonical JSON, where that is new; else empty.
    """

    replaces: bool = False
    config: str = ""
    gone: dict[str, NDArray[np.int64]] = field(default_factory=dict)  # table by item → [N] item numbers
    rows: dict[str, Rows] = field(default_factory=dict)
    user_rows: dict[str, UserRows] = field(default_factory=dict)
    cells: dict[str, Cells] = field(default_factory=dict)
    dense: dict[str, NDArray[np.float16]] = field(default_factory=dict)


@dataclass(slots=True)
class Delta:
    """One version of a stage. Item numbers are those of the store that encodes it, or that decodes it.

    A deletion of a user comes before the entries, slates and impressions: these hold none from before it.
    """

    stage: str  # "fold" or "learn"
    version: int
    offsets: dict[str, int] = field(default_factory=dict)  # partition → next to read; of learn: learned
    event_time: int = 0  # greatest so far, milliseconds
    users: list[bytes] = field(default_factory=list)  # [N] of each entry
    entries: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, ENTRY))  # [N] ENTRY, in the order folded
    slates: list[tuple[bytes, bytes]] = field(default_factory=list)  # (user, row)
    impressions: list[tuple[bytes, bytes]] = field(default_factory=list)  # (user, row)
    items: list[CatalogueItem] = field(default_factory=list)
    deleted_users: list[tuple[bytes, int]] = field(default_factory=list)  # (user, received_at of the wish); both stages
    models: dict[str, ModelDelta] = field(default_factory=dict)
    fold_versions: dict[str, int] = field(default_factory=dict)  # fold store → last version learned
    totals: dict[tuple[str, str], int] = field(default_factory=dict)  # (event type, outcome) → how many in this version
    held: dict[str, str] = field(default_factory=dict)  # models that stand still from this version on → why
