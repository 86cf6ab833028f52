# The bytes of a delta, as docs/delta.md describes them.
from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from state.catalogue import CatalogueItem
from state.delta import Cells, Delta, ModelDelta, Rows, UserRows
from state.entry import ENTRY
from state.slate import row_items, with_items

FORMAT = 1
_LEVEL = 1  # of zstd


class DeltaError(ValueError):
    """A delta cannot be read: a newer format, or bytes that are none."""


class _Entries(msgspec.Struct):
    users: bytes = b""
    rows: bytes = b""


class _Rows(msgspec.Struct):
    dtype: str
    width: int
    ids: bytes
    data: bytes


class _Cells(msgspec.Struct):
    rows: bytes
    columns: bytes
    counts: bytes


class _Dense(msgspec.Struct):
    shape: list[int]
    data: bytes


class _Model(msgspec.Struct, omit_defaults=True):
    replaces: bool = False
    config: str = ""
    gone: dict[str, bytes] = {}
    rows: dict[str, _Rows] = {}
    user_rows: dict[str, _Rows] = {}
    cells: dict[str, _Cells] = {}
    dense: dict[str, _Dense] = {}


class _Wire(msgspec.Struct, omit_defaults=True):
    stage: str
    version: int
    offsets: dict[str, int] = {}
    event_time: int = 0
    strings: list[str] = []
    users: list[bytes] = []
    entries: _Entries | None = None
    slates: list[tuple[int, bytes]] = []
    impressions: list[tuple[int, bytes]] = []
    items: list[CatalogueItem] = []
    deleted_users: list[tuple[int, int]] = []
    models: dict[str, _Model] = {}
    fold_versions: dict[str, int] = {}
    totals: list[tuple[str, str, int]] = []
    held: dict[str, str] = {}


class _Index:
    """Places of users and items in the lists that a delta carries once."""

    def __init__(self, delta: Delta) -> None:
        cells = [table for model in delta.models.values() for table in model.cells.values()]
        numbers = [delta.entries["item"].astype(np.int64)]
        numbers += [row_items(row).astype(np.int64) for _, row in delta.slates + delta.impressions]
        numbers += [table.numbers for model in delta.models.values() for table in model.rows.values()]
        numbers += [gone for model in delta.models.values() for gone in model.gone.values()]
        numbers += [table.rows for table in cells] + [table.columns for table in cells]
        self.numbers = np.unique(np.concatenate(numbers))
        self.users: dict[bytes, int] = {}

    def items(self, numbers: NDArray[np.integer]) -> NDArray[np.uint32]:
        """Places of item numbers."""
        return np.searchsorted(self.numbers, numbers).astype("<u4")

    def user(self, user: bytes) -> int:
        """Place of a user."""
        return self.users.setdefault(user, len(self.users))


def encode(delta: Delta, name_of: Callable[[int], str]) -> bytes:
    """The bytes of a delta; `name_of` gives the item_id of a number (a dictionary's `name`)."""
    index = _Index(delta)
    wire = _Wire(delta.stage, delta.version, delta.offsets, delta.event_time, fold_versions=delta.fold_versions)
    wire.items, wire.held = delta.items, delta.held
    wire.totals = [(kind, outcome, count) for (kind, outcome), count in delta.totals.items()]
    if len(delta.entries):
        entries = np.array(delta.entries, ENTRY)  # a copy, big-endian also where numpy made it native
        entries["item"] = index.items(entries["item"].astype(np.int64))
        places = np.fromiter((index.user(user) for user in delta.users), "<u4", len(delta.users))
        wire.entries = _Entries(places.tobytes(), entries.tobytes())
    wire.slates = [(index.user(user), with_items(row, index.items(row_items(row)))) for user, row in delta.slates]
    wire.impressions = [
        (index.user(user), with_items(row, index.items(row_items(row)))) for user, row in delta.impressions
    ]
    wire.deleted_users = [(index.user(user), received_at) for user, received_at in delta.deleted_users]
    wire.models = {name: _model_to_wire(model, index) for name, model in delta.models.items()}
    wire.strings = [name_of(number) for number in index.numbers.tolist()]
    wire.users = list(index.users)
    return bytes([FORMAT]) + zstandard.ZstdCompressor(_LEVEL).compress(msgspec.msgpack.encode(wire))


def _model_to_wire(model: ModelDelta, index: _Index) -> _Model:
    wire = _Model(model.replaces, model.config)
    wire.gone = {name: index.items(gone).tobytes() for name, gone in model.gone.items()}
    for name, table in model.rows.items():
        wire.rows[name] = _rows_to_wire(index.items(table.numbers), table.data)
    for name, by_user in model.user_rows.items():
        places = np.fromiter((index.user(user) for user in by_user.users), "<u4", len(by_user.users))
        wire.user_rows[name] = _rows_to_wire(places, by_user.data)
    for name, cells in model.cells.items():
        rows, columns = index.items(cells.rows), index.items(cells.columns)
        wire.cells[name] = _Cells(rows.tobytes(), columns.tobytes(), cells.counts.astype("<f4").tobytes())
    for name, weights in model.dense.items():
        wire.dense[name] = _Dense(list(weights.shape), weights.astype("<f2").tobytes())
    return wire


def _rows_to_wire(ids: NDArray[np.uint32], data: NDArray[np.floating]) -> _Rows:
    dtype = "<f8" if data.dtype == np.float64 else "<f2"
    return _Rows(dtype, data.shape[1], ids.tobytes(), data.astype(dtype).tobytes())


def decode(data: bytes, number_of: Callable[[str], int]) -> Delta:
    """The delta of `encode`'s bytes; `number_of` gives the number of an item_id in the store that reads it.

    That is a dictionary's `number` (assigns) or `find`: rows and cells of items it does not know (-1) are left out.
    Raises DeltaError naming what is wrong.
    """
    if not data or data[0] != FORMAT:
        found = data[0] if data else "none"
        raise DeltaError(f"delta has format {found}, this program knows {FORMAT}: use the version that wrote it")
    try:
        wire = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(data[1:]), type=_Wire)
    except (zstandard.ZstdError, msgspec.MsgspecError) as error:
        raise DeltaError(f"delta cannot be read: {error}") from error
    try:
        return _delta_of(wire, np.array([number_of(name) for name in wire.strings], np.int64))
    except (IndexError, ValueError) as error:
        raise DeltaError(f"{wire.stage} delta {wire.version} cannot be read: {error}") from error


def _delta_of(wire: _Wire, numbers: NDArray[np.int64]) -> Delta:
    delta = Delta(wire.stage, wire.version, wire.offsets, wire.event_time)
    delta.items, delta.fold_versions, delta.held = wire.items, wire.fold_versions, wire.held
    delta.totals = {(kind, outcome): count for kind, outcome, count in wire.totals}
    if wire.entries is not None:
        delta.users = [wire.users[place] for place in np.frombuffer(wire.entries.users, "<u4").tolist()]
        delta.entries = np.frombuffer(wire.entries.rows, ENTRY).copy()
        delta.entries["item"] = numbers[delta.entries["item"].astype(np.int64)]
    delta.slates = [(wire.users[user], with_items(row, numbers[row_items(row)])) for user, row in wire.slates]
    delta.impressions = [(wire.users[user], with_items(row, numbers[row_items(row)])) for user, row in wire.impressions]
    delta.deleted_users = [(wire.users[user], received_at) for user, received_at in wire.deleted_users]
    delta.models = {name: _model_from_wire(model, numbers, wire.users) for name, model in wire.models.items()}
    return delta


def _model_from_wire(wire: _Model, numbers: NDArray[np.int64], users: list[bytes]) -> ModelDelta:
    model = ModelDelta(wire.replaces, wire.config)
    for name, gone in wire.gone.items():
        items = numbers[np.frombuffer(gone, "<u4")]
        model.gone[name] = items[items >= 0]
    for name, table in wire.rows.items():
        items, data = numbers[np.frombuffer(table.ids, "<u4")], _data_from_wire(table)
        model.rows[name] = Rows(items[items >= 0], data[items >= 0])
    for name, table in wire.user_rows.items():
        ids = np.frombuffer(table.ids, "<u4").tolist()
        model.user_rows[name] = UserRows([users[place] for place in ids], _data_from_wire(table))
    for name, cells in wire.cells.items():
        rows, columns = (numbers[np.frombuffer(data, "<u4")] for data in (cells.rows, cells.columns))
        known = (rows >= 0) & (columns >= 0)
        model.cells[name] = Cells(rows[known], columns[known], np.frombuffer(cells.counts, "<f4")[known])
    for name, weights in wire.dense.items():
        model.dense[name] = np.frombuffer(weights.data, "<f2").reshape(weights.shape)
    return model


def _data_from_wire(table: _Rows) -> NDArray[np.floating]:
    if table.dtype not in ("<f2", "<f8"):
        raise ValueError(f"rows of dtype {table.dtype!r}")
    data: NDArray[np.floating] = np.frombuffer(table.data, table.dtype).reshape(-1, table.width)
    return data
