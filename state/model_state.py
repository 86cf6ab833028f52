# What of a model is saved, as structure alone: this package does not know the models.
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

NEXT = ".next"  # ends the name of a model that is trained to take the place of the one named before it; never served


class RowTableLike(Protocol):
    """A matrix with a row an item number (RowTable of the models)."""

    @property
    def width(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def wire(self) -> Literal["f2", "f8"]: ...
    @property
    def values(self) -> NDArray[np.floating]: ...
    @property
    def slots(self) -> NDArray[np.float32]: ...
    @property
    def present(self) -> NDArray[np.bool_]: ...
    def grow(self, size: int) -> None: ...
    def touch_all(self) -> None: ...
    def take_touched(self) -> NDArray[np.int64]: ...
    def take_gone(self) -> NDArray[np.int64]: ...
    def remove(self, rows: NDArray[np.int64]) -> None: ...
    def load(
        self, rows: NDArray[np.int64], values: NDArray[np.floating], slots: NDArray[np.float32] | None = None
    ) -> None: ...


@runtime_checkable
class CellTableLike(Protocol):
    """Sparse rows of counts (CellTable of the models)."""

    @property
    def rows(self) -> dict[int, dict[int, float]]: ...
    def touch_all(self) -> None: ...
    def take_touched(self) -> dict[int, set[int]]: ...
    def remove(self, items: NDArray[np.int64]) -> None: ...
    def load(self, row: int, columns: NDArray[np.int64], counts: NDArray[np.floating]) -> None: ...


class UserTableLike(Protocol):
    """Rows by user; a process holds few of them, those touched since the last commit at least.

    What it does not hold it reads by the function that `bind` gave, while there is one.
    """

    @property
    def width(self) -> int: ...
    def take_touched(self) -> list[bytes]: ...
    def row(self, user: bytes) -> NDArray[np.float32] | None: ...
    def bind(self, read: Callable[[bytes], NDArray[np.float32] | None] | None) -> None: ...
    def forget(self, user: bytes) -> None: ...


class ModelState(Protocol):
    """What of a model is saved. One with rows by user also has `user_tables: Mapping[str, UserTableLike]`."""

    @property
    def tables(self) -> Mapping[str, RowTableLike | CellTableLike]: ...
    def dense(self) -> dict[str, NDArray[np.float32]]: ...
    def load_dense(self, weights: Mapping[str, NDArray[np.float32]]) -> None: ...
    def training_state(self) -> dict[str, NDArray[np.generic]]: ...
    def load_training_state(self, state: Mapping[str, NDArray[np.generic]]) -> None: ...


class TableSpec(msgspec.Struct, frozen=True):
    """What a store notes of a table, so that its rows can be read without the model."""

    kind: Literal["rows", "user_rows", "cells"]
    dtype: str = ""  # of the values on disk: "<f4" (served as fp16) or "<f8"
    width: int = 0


def user_tables(model: object) -> Mapping[str, UserTableLike]:
    """The tables by user of a model, none where it has none."""
    tables: Mapping[str, UserTableLike] = getattr(model, "user_tables", {})
    return tables


def rounded(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """As served: float32 as fp16 (finite values stay finite), float64 as it is."""
    if values.dtype == np.float64:
        return values
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    overflowed = np.isinf(half)
    if overflowed.any():
        overflowed &= np.isfinite(values)
        half[overflowed] = np.copysign(np.float16(65504), values[overflowed])
    return half
