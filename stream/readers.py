# Readers of public data sets: each turns a file into our events, in the order of the stream.
from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow.parquet as pq

_BATCH_ROWS = 16_384  # rows decoded at a time: bounds memory whatever the file's size
WEEK_MS = 7 * 24 * 3_600_000
_encode = msgspec.json.Encoder().encode


class DataError(Exception):
    """A data set that is not there or is not what its name says; the message names the file."""


class ReadEvent(NamedTuple):
    """One event of a data set: its event time in milliseconds and its JSON."""

    timestamp: int
    value: bytes


@dataclass(frozen=True)
class DataSet:
    """A named data set: where its file lies below the data directory, and how rows become events."""

    file: str
    read: Callable[[Path], Iterator[ReadEvent]]
    num_events: Callable[[Path], int]


def open_data_set(name: str, data: Path, limit: int | None = None) -> tuple[Iterator[ReadEvent], int]:
    """Events of the data set `name` and how many there are.

    `data` is the directory that holds the data sets, or a file with the columns of that set. Raises DataError naming
    the path when it is absent, and the valid names when `name` is not one of them.
    """
    if name not in DATA_SETS:
        raise DataError(f"unknown data set {name!r}; valid names are {', '.join(sorted(DATA_SETS))}")
    data_set = DATA_SETS[name]
    path = data / data_set.file if data.is_dir() else data
    if not path.is_file():
        raise DataError(f"no data for {name!r}: {path} is not a file (set RUNNEL_DATA or --data to where it lies)")
    events, num_events = data_set.read(path), data_set.num_events(path)
    return (events, num_events) if limit is None else (islice(events, limit), min(limit, num_events))


def _columns(path: Path, names: list[str]) -> Iterator[list[list[int]]]:
    """Columns of a parquet file, some rows at a time; raises DataError naming a column that is missing."""
    file = pq.ParquetFile(path)
    missing = [name for name in names if name not in file.schema_arrow.names]
    if missing:
        raise DataError(f"{path} lacks the column {missing[0]!r}")
    for rows in file.iter_batches(_BATCH_ROWS, columns=names):
        yield [rows.column(name).to_pylist() for name in names]


def _parquet_rows(path: Path) -> int:
    return int(pq.ParquetFile(path).metadata.num_rows)


_GLOBO_CONTEXT = {
    "environment": "click_environment",
    "device": "click_deviceGroup",
    "os": "click_os",
    "country": "click_country",
    "region": "click_region",
    "referrer": "click_referrer_type",
}


def _read_globo(path: Path) -> Iterator[ReadEvent]:
    """Globo.com news clicks: anonymous sessions, true clock. `session_size` is the future and is not read."""
    names = ["user_id", "session_id", "click_article_id", "click_timestamp", *_GLOBO_CONTEXT.values()]
    row_number = 0
    for users, sessions, items, times, *contexts in _columns(path, names):
        for user, session, item, time, *values in zip(users, sessions, items, times, *contexts, strict=True):
            event = {
                "event_id": f"globo-{row_number}",
                "type": "click",
                "user_id": str(user),
                "item_id": str(item),
                "timestamp": time,
                "session_id": str(session),
                "context": dict(zip(_GLOBO_CONTEXT, map(str, values), strict=True)),
            }
            row_number += 1
            yield ReadEvent(time, _encode(event))


def _read_diginetica(path: Path) -> Iterator[ReadEvent]:
    """DIGINETICA views in ADER's order. There is no clock: an event's time is its week plus its place in the week."""
    row_number, place, week = 0, 0, -1
    start = 1_451_606_400_000  # 2016-01-01: any origin after 2000 serves, since only differences are used
    for periods, sessions, items in _columns(path, ["period", "session", "item"]):
        for period, session, item in zip(periods, sessions, items, strict=True):
            place = place + 1 if period == week else 0
            week = period
            time = start + period * WEEK_MS + place * 1000
            event = {
                "event_id": f"diginetica-{row_number}",
                "type": "view",
                "user_id": str(session),
                "item_id": str(item),
                "timestamp": time,
                "session_id": str(session),
            }
            row_number += 1
            yield ReadEvent(time, _encode(event))


# The ratings are of 1997 and 1998, and an event before 2000 looks like one in seconds: ten years of whole weeks later.
_ML_100K_SHIFT_MS = 522 * WEEK_MS
_STAR_SIGNALS = {5: "like", 4: "like", 3: "view", 2: "dislike", 1: "dislike"}


def read_ml_100k_ratings(path: Path) -> list[tuple[int, int, int, int]]:
    """(user, item, stars, milliseconds) of MovieLens 100K in time order (file order on ties), ten years later. Raises
    DataError naming the file."""
    try:
        ratings = np.loadtxt(path, dtype=np.int64, ndmin=2)
    except ValueError as error:
        raise DataError(f"{path} is not four columns of whole numbers: {error}") from error
    ratings = ratings[np.argsort(ratings[:, 3], kind="stable")]
    return [(user, item, stars, seconds * 1000 + _ML_100K_SHIFT_MS) for user, item, stars, seconds in ratings.tolist()]


def _read_ml_100k(path: Path) -> Iterator[ReadEvent]:
    """MovieLens 100K: 4, 5 stars like; 3 views; 1, 2 dislike."""
    for user, item, stars, time in read_ml_100k_ratings(path):
        event = {
            "event_id": f"ml-100k-{user}-{item}",
            "type": _STAR_SIGNALS[stars],
            "user_id": str(user),
            "item_id": str(item),
            "timestamp": time,
            "value": float(stars),
        }
        yield ReadEvent(time, _encode(event))


class _Stamp(msgspec.Struct):
    timestamp: int


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        yield from (line.rstrip() for line in file if line.strip())


def _read_events(path: Path) -> Iterator[ReadEvent]:
    """Our own events, one JSON object a line (what `runnel simulate` writes)."""
    decode = msgspec.json.Decoder(_Stamp).decode
    for number, line in enumerate(_lines(path), 1):
        try:
            yield ReadEvent(decode(line).timestamp, line)
        except msgspec.MsgspecError as error:
            raise DataError(f"{path}, line {number}: {error}") from error


def _count_lines(path: Path) -> int:
    return sum(1 for _ in _lines(path))


DATA_SETS: dict[str, DataSet] = {
    "globo": DataSet("globo/clicks.parquet", _read_globo, _parquet_rows),
    "diginetica": DataSet("diginetica/stream.parquet", _read_diginetica, _parquet_rows),
    "ml-100k": DataSet("ml-100k/u.data", _read_ml_100k, _count_lines),
    "events": DataSet("events.jsonl", _read_events, _count_lines),
}
