# docs/delta.md is enough: a decoder written from that page alone reads what a store's log holds.
from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np
import zstandard

from state.catalogue import CatalogueItem
from state.deltas import Delta, DeltaLog, encode
from state.dictionary import Dictionary
from state.entry import ENTRY, Entry, pack
from state.slate import Impression, Slate, pack_impression, pack_slate
from state.store import Store
from state.tables import replace_model, save_model
from tests.state.doubles import TableModel

Map = dict[str, Any]  # what msgpack gives


# The decoder: nothing below up to the tests comes from the package `state`.


def message(data: bytes) -> Map:
    assert data[0] == 1
    found: Map = msgpack.unpackb(zstandard.ZstdDecompressor().decompress(data[1:]), strict_map_key=False)
    return found


def deltas_of(path: Path, stage: str) -> list[Map]:
    """The maps of all versions in the log of a store."""
    versions: dict[int, list[bytes]] = {}
    with lmdb.open(str(path), readonly=True, max_dbs=128) as env, env.begin() as txn:
        for key, value in txn.cursor(env.open_db(f"deltas:{stage}".encode(), txn=txn, create=False)):
            version, chunk = struct.unpack(">QH", key)
            assert chunk == len(versions.setdefault(version, []))
            versions[version].append(value[8:])
    found = []
    for version, messages in sorted(versions.items()):
        maps = [message(data) for data in messages]
        if "chunk" in maps[0]:
            assert [one["chunk"] for one in maps] == [[k, len(maps)] for k in range(len(maps))]
            maps = [message(b"".join(one["part"] for one in maps))]
        assert maps[0]["version"] == version
        found.append(maps[0])
    return found


def u32(data: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(data) // 4}I", data))


def entry_of(row: bytes, strings: list[str]) -> Map:
    at, hash_, item, signal, position, dwell, duration, session, request, value = struct.unpack(">QQIBxHIIIIf", row)
    assert row[21] == 0
    return {
        "timestamp": at,
        "hash": hash_,
        "item": strings[item],
        "signal": signal,
        "position": None if position == 65535 else position,
        "dwell": None if dwell == 4294967295 else dwell,
        "duration": duration,
        "session": session,
        "request": request,
        "value": value,
    }


def shown_of(row: bytes, strings: list[str]) -> tuple[tuple[int, int, int, int], list[str], bytes]:
    """(timestamp, hash, request, version), items, and the bytes behind them."""
    *head, num_items = struct.unpack(">QQIQB", row[:29])
    items = struct.unpack(f">{num_items}I", row[29 : 29 + 4 * num_items])
    at, hash_, request, version = head
    return (at, hash_, request, version), [strings[item] for item in items], row[29 + 4 * num_items :]


# The tests.


def test_a_fold_delta_is_read_by_the_page_alone(tmp_path: Path) -> None:
    with Store(tmp_path / "s", "fold", writer=True) as store:
        names = ["first", "ü", "third"]
        rows = [
            Entry(1763649000123, 2**63 + 5, 1, 1, 3, 5300, 15000, 77, 88, 0.5),
            Entry(1763649000124, 9, 2, 2),
        ]
        delta = Delta("fold", 4, {"events-0": 12}, 1763649000124, [b"u1", "u-ü".encode()])
        delta.entries = np.frombuffer(b"".join(map(pack, rows)), ENTRY)
        delta.slates = [(b"u1", pack_slate(Slate(5, 6, 7, 8, (2, 0), (300, 0), (1.0, 0.25))))]
        delta.impressions = [(b"u2", pack_impression(Impression(1, 2, 3, (0,), (4, 5))))]
        delta.items = [CatalogueItem("ü", 7, title="t", categories=["a"], features={"lang": "en"}, deleted=True)]
        delta.deleted_users = [(b"u3", 99)]
        with store.write() as txn:
            DeltaLog(store).append(txn, 4, encode(delta, names.__getitem__), 5)
    (found,) = deltas_of(tmp_path / "s", "fold")
    assert (found["stage"], found["offsets"], found["event_time"]) == ("fold", {"events-0": 12}, 1763649000124)
    strings, users = found["strings"], found["users"]
    entries = found["entries"]
    assert [users[user] for user in u32(entries["users"])] == [b"u1", "u-ü".encode()]
    one, other = (entry_of(entries["rows"][start : start + 44], strings) for start in (0, 44))
    assert (one["timestamp"], one["hash"], one["item"], one["signal"]) == (1763649000123, 2**63 + 5, "ü", 1)
    assert (one["position"], one["dwell"], one["duration"], one["session"]) == (3, 5300, 15000, 77)
    assert (one["request"], one["value"]) == (88, 0.5)
    assert (other["item"], other["position"], other["dwell"]) == ("third", None, None)
    ((user, row),) = found["slates"]
    head, items, rest = shown_of(row, strings)
    assert (users[user], head, items) == (b"u1", (5, 6, 7, 8), ["third", "first"])
    assert struct.unpack(">2H2e", rest) == (300, 0, 1.0, 0.25)
    ((user, row),) = found["impressions"]
    head, items, rest = shown_of(row, strings)
    assert (users[user], head, items, struct.unpack(">2H", rest)) == (b"u2", (1, 2, 3, 0), ["first"], (4, 5))
    (item,) = found["items"]
    assert item["item_id"] == "ü"
    assert (item["timestamp"], item["categories"], item["features"]) == (7, ["a"], {"lang": "en"})
    assert item.get("available", True)
    assert item["deleted"]
    ((user, received_at),) = found["deleted_users"]
    assert (users[user], received_at) == (b"u3", 99)


def test_model_deltas_folded_by_the_page_alone_give_the_models_served_tables(tmp_path: Path) -> None:
    model, rng = TableModel(), np.random.default_rng(0)
    with Store(tmp_path / "s", "learn", writer=True) as store:
        dictionary = Dictionary(store)
        for number in range(40):
            dictionary.number(f"i{number}")
        for version in range(1, 20):
            model.change(rng, 2 * version)
            if version == 9:
                for table_of in model.tables.values():
                    table_of.remove(np.array([1, 3, 4]))
            with store.write() as txn:
                dictionary.flush(txn)
                save = replace_model if version == 6 else save_model
                delta = Delta("learn", version, models={"m": save(txn, store, "m", model)})
                delta.held = {"m": "why"} if version == 19 else {}
                DeltaLog(store).append(txn, version, encode(delta, dictionary.name), 0)
    rows: dict[tuple[str, str], tuple[float, ...]] = {}
    by_user: dict[bytes, tuple[float, ...]] = {}
    cells: dict[tuple[str, str], float] = {}
    dense: tuple[float, ...] = ()
    for found in deltas_of(tmp_path / "s", "learn"):
        strings, users, changes = found["strings"], found["users"], found["models"]["m"]
        if changes.get("replaces"):
            rows, by_user, cells, dense = {}, {}, {}, ()
        for name, gone in changes.get("gone", {}).items():
            for number in u32(gone):
                del rows[name, strings[number]]
        for name, table in changes["rows"].items():
            code, size = {"<f2": ("e", 2), "<f8": ("d", 8)}[table["dtype"]]
            step = size * table["width"]
            for place, number in enumerate(u32(table["ids"])):
                data = table["data"][step * place : step * (place + 1)]
                rows[name, strings[number]] = struct.unpack(f"<{table['width']}{code}", data)
        for place, number in enumerate(u32(changes["user_rows"]["users"]["ids"])):
            data = changes["user_rows"]["users"]["data"][6 * place : 6 * place + 6]
            by_user[users[number]] = struct.unpack("<3e", data)
        table = changes["cells"]["cells"]
        counts = struct.unpack(f"<{len(table['counts']) // 4}f", table["counts"])
        for place, count in enumerate(counts):
            cells[strings[u32(table["rows"])[place]], strings[u32(table["columns"])[place]]] = count
        assert changes["dense"]["weights"]["shape"] == [2, 3]
        dense = struct.unpack("<6e", changes["dense"]["weights"]["data"])
    assert found["held"] == {"m": "why"}
    assert len(rows) == int(model.embeddings.present.sum()) + int(model.counters.present.sum())
    for (name, item), row_found in rows.items():
        table_values = (model.embeddings if name == "embeddings" else model.counters).values
        expected = table_values[int(item[1:])].astype(np.float16 if name == "embeddings" else np.float64)
        assert row_found == tuple(expected.tolist())
    assert {name for name, _ in rows} == {"embeddings", "counters"}
    for user, row_of_user in by_user.items():
        expected_row = model.users.row(user)
        assert expected_row is not None
        assert row_of_user == tuple(expected_row.astype(np.float16).tolist())
    kept = {key: count for key, count in cells.items() if count}
    assert kept == {
        (f"i{row}", f"i{column}"): float(np.float32(count))
        for row, columns in model.cells.rows.items()
        for column, count in columns.items()
    }
    assert dense == tuple(model.weights.astype(np.float16).ravel().tolist())


def test_a_large_delta_is_put_together_by_the_page_alone(tmp_path: Path) -> None:
    model = TableModel()
    model.weights = np.random.default_rng(0).normal(size=(1000, 1000)).astype(np.float32)
    with Store(tmp_path / "s", "learn", writer=True) as store, store.write() as txn:
        delta = Delta("learn", 1, models={"m": save_model(txn, store, "m", model)})
        data = encode(delta, str)
        assert len(data) > 900_000
        DeltaLog(store).append(txn, 1, data, 0)
        assert max(len(value) - 8 for _, value in txn.cursor(store.db("deltas:learn"))) <= 900_000
    (found,) = deltas_of(tmp_path / "s", "learn")
    dense = found["models"]["m"]["dense"]["weights"]
    assert dense["shape"] == [1000, 1000]
    assert dense["data"] == model.weights.astype("<f2").tobytes()
