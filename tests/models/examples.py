# Small streams for the tests of models, and models as bytes.
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.base import PAD, Batch, Model, Query
from models.examples import cut
from models.tables import CellTable, RowTable
from models.user_table import UserTable

START_MS = 1_700_000_000_000
WINDOW = 8
NUM_USERS = 7  # of `random_clicks`
Click = tuple[int, int, int, float]  # user, session, item, label; one a minute


def as_batches(clicks: Sequence[Click], sizes: Sequence[int]) -> list[Batch]:
    """The examples of a stream of clicks, cut into batches of the given sizes (the last one takes the rest)."""
    histories: dict[int, list[tuple[int, int, float, int]]] = {}
    query = {name: np.zeros((len(clicks), WINDOW), np.int64) for name in ("items", "labels", "at", "in_session")}
    query["items"] += PAD
    for row, (user, session, item, label) in enumerate(clicks):
        newest = histories.setdefault(user, [])[-WINDOW:]
        for place, (old_item, old_session, old_label, at) in enumerate(newest, start=WINDOW - len(newest)):
            query["items"][row, place], query["at"][row, place] = old_item, at
            query["labels"][row, place], query["in_session"][row, place] = old_label, old_session == session
        histories[user].append((item, session, label, START_MS + 60_000 * row))
    now = START_MS + 60_000 * np.arange(len(clicks), dtype=np.int64)
    items, labels = np.array([click[2] for click in clicks], np.int64), np.array([click[3] for click in clicks])
    whole = Batch(
        query=Query(
            items=query["items"],
            signals=np.where(query["items"] == PAD, 0, 2 - query["labels"]).astype(np.uint8),
            labels=query["labels"].astype(np.float32),
            at=query["at"],
            in_session=query["in_session"].astype(np.bool_),
            now=now,
            users=np.array([b"u%d" % click[0] for click in clicks], object),
        ),
        items=items,
        labels=labels.astype(np.float32),
        weights=np.where(items % 5 == 0, 2.0, 1.0).astype(np.float32),
    )
    ends = [*np.cumsum(sizes)[np.cumsum(sizes) < len(clicks)].tolist(), len(clicks)]
    return [cut(whole, slice(start, end)) for start, end in zip([0, *ends], ends, strict=False)]


def random_clicks(num: int, seed: int = 0, num_items: int = 40) -> list[Click]:
    """Clicks of NUM_USERS users whose catalogue grows while they click; one in six is a skip."""
    rng = np.random.default_rng(seed)
    clicks = []
    for number in range(num):
        user = int(rng.integers(NUM_USERS))
        item = int(rng.integers(max(3, num_items * (number + 1) // num)))
        clicks.append((user, 10 * user + number // 60, item, float(rng.random() > 1 / 6)))
    return clicks


def learn(models: Mapping[str, Model], batches: Sequence[Batch]) -> list[float]:
    """All models learn all batches, in their order; the losses."""
    return [model.learn(batch) for batch in batches for model in models.values()]


def as_bytes(models: Mapping[str, Model]) -> dict[str, bytes]:
    """All that the models hold, by name."""
    held: dict[str, bytes] = {}
    for name, model in models.items():
        for table_name, table in model.tables.items():
            for key, array in table_arrays(table).items():
                held[f"{name}.{table_name}.{key}"] = array.tobytes()
        for table_name, users in user_tables(model).items():
            held[f"{name}.{table_name}"] = users.rows([b"u%d" % user for user in range(NUM_USERS)]).tobytes()
        for key, array in {**model.dense(), **model.training_state()}.items():
            held[f"{name}.{key}"] = array.tobytes()
    return held


def table_arrays(table: RowTable | CellTable) -> dict[str, NDArray[np.generic]]:
    """A table's rows as arrays by row number."""
    if isinstance(table, RowTable):
        rows = range(table.size)
        return {
            str(row): np.concatenate([table.values[row].view(np.uint8), table.slots[row].view(np.uint8)])
            for row in rows
        }
    return {str(row): np.array(sorted(cells.items()), np.float64) for row, cells in sorted(table.rows.items()) if cells}


def user_tables(model: Model) -> Mapping[str, UserTable]:
    """The tables by user of a model, none where it has none."""
    tables: Mapping[str, UserTable] = getattr(model, "user_tables", {})
    return tables


class Store:
    """Keeps what models touched, as a checkpoint does, and gives it to fresh models."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[int, tuple[NDArray[np.floating], NDArray[np.float32]]]] = {}
        self.users: dict[tuple[str, str], dict[bytes, NDArray[np.float32]]] = {}
        self.cells: dict[tuple[str, str], dict[tuple[int, int], float]] = {}
        self.dense: dict[str, dict[str, NDArray[np.float32]]] = {}
        self.training: dict[str, dict[str, NDArray[np.generic]]] = {}

    def save(self, models: Mapping[str, Model]) -> None:
        """Take over what changed since the last save."""
        for name, model in models.items():
            self.dense[name], self.training[name] = model.dense(), model.training_state()
            for table_name, by_user in user_tables(model).items():
                touched = by_user.take_touched()
                rows = dict(zip(touched, by_user.rows(touched), strict=True))
                self.users.setdefault((name, table_name), {}).update(rows)
            for table_name, table in model.tables.items():
                if isinstance(table, RowTable):
                    kept = self.rows.setdefault((name, table_name), {})
                    for row in table.take_touched().tolist():
                        kept[row] = (table.values[row].copy(), table.slots[row].copy())
                else:
                    cells = self.cells.setdefault((name, table_name), {})
                    for row, columns in table.take_touched().items():
                        cells.update({(row, column): table.rows[row].get(column, 0.0) for column in columns})

    def load(self, models: Mapping[str, Model]) -> None:
        """Give all that was saved to fresh models."""
        for name, model in models.items():
            for table_name, table in model.tables.items():
                if isinstance(table, RowTable):
                    kept = self.rows[name, table_name]
                    if kept:
                        values, slots = (np.array(columns) for columns in zip(*kept.values(), strict=True))
                        table.load(np.fromiter(kept, np.int64), values, slots)
                else:
                    for (row, column), count in self.cells[name, table_name].items():
                        table.load(row, np.array([column]), np.array([count]))
            for table_name, by_user in user_tables(model).items():
                by_user.bind(self.users[name, table_name].get)
            model.load_dense(self.dense[name])
            model.load_training_state(self.training[name])


def one_query(items: Sequence[int], labels: Sequence[float]) -> Query:
    """A user's entries of one session, oldest first."""
    row = np.array([items], np.int64)
    return Query(
        items=row,
        signals=np.ones_like(row, np.uint8),
        labels=np.array([labels], np.float32),
        at=np.full_like(row, 1_700_000_000_000),
        in_session=row != PAD,
        now=np.array([1_700_000_300_000_0]),
    )
