# LMDB's verification is passed on, but for page counters that a deleted key of many values leaves too high.
from __future__ import annotations

from pathlib import Path

import lmdb
import pytest
from lmdb.verify import verify

from state.soundness import unsound


def write(folder: Path, keys: tuple[bytes, ...] = (b"deleted", b"stays")) -> None:
    """An environment with keys of 5,000 values each, of which the first was deleted again."""
    with lmdb.open(str(folder), max_dbs=1, map_size=1 << 26) as env:
        db = env.open_db(b"values", dupsort=True)
        with env.begin(write=True) as txn:
            for key in keys:
                for number in range(5_000):
                    txn.put(key, number.to_bytes(40, "big"), db=db)
        with env.begin(write=True) as txn:
            txn.delete(keys[0], db=db)


@pytest.mark.parametrize("keys", [(b"deleted", b"stays"), (b"deleted",)])
def test_counters_that_a_deleted_key_leaves_too_high_are_no_damage(tmp_path: Path, keys: tuple[bytes, ...]) -> None:
    write(tmp_path, keys)
    assert verify(str(tmp_path)) != []  # type: ignore[no-untyped-call]
    assert unsound(tmp_path) == []


def test_a_page_that_is_damaged_is_told(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / "data.mdb"
    data = bytearray(file.read_bytes())
    place = data.rindex(b"stays")
    page = place - place % 4096
    data[page : page + 8] = b"\xff" * 8  # the number of the page, which it repeats
    file.write_bytes(data)
    assert unsound(tmp_path) != []
