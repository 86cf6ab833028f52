# A store copied file by file: refused where it was being written, good where it was closed or where its writer died.
from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from state.dump import dump
from state.store import Store, StoreError
from tests.faults.test_full_disk import append
from tests.stream.stage_process import finish, start
from tests.stream.waiting import stored_offsets, wait_until


@pytest.mark.parametrize("is_writer", [False, True])
def test_a_copy_of_a_store_that_is_being_written_is_refused_and_told_how_to_make_one(
    tmp_path: Path, is_writer: bool
) -> None:
    append(tmp_path, 0, 400)
    folder = start("fold", tmp_path)
    wait_until(lambda: bool(stored_offsets(tmp_path / "fold", "fold")))
    shutil.copytree(tmp_path / "fold", tmp_path / "copy")
    folder.kill()
    folder.wait()
    with pytest.raises(StoreError, match=f"{tmp_path / 'copy'} is a copy of a store .* `runnel snapshot`"):
        Store(tmp_path / "copy", "fold", writer=is_writer)
    with Store(tmp_path / "fold", "fold", writer=True) as store:  # the killed writer's own is sound
        assert store.verify() == []


def test_a_copy_of_a_store_that_was_closed_is_that_store(tmp_path: Path) -> None:
    append(tmp_path, 0, 400)
    folder = start("fold", tmp_path)
    wait_until(lambda: stored_offsets(tmp_path / "fold", "fold") == {"events-0": 4})
    finish(folder)
    shutil.copytree(tmp_path / "fold", tmp_path / "copy")
    with Store(tmp_path / "fold") as store, Store(tmp_path / "copy", "fold", writer=True) as copy:
        assert dump(copy) == dump(store)
    (tmp_path / "copy").rename(tmp_path / "moved")
    Store(tmp_path / "moved", "fold", writer=True).close()
