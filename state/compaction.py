# Compaction: a store's files are replaced by a compact copy, so that the disk gets back what is no longer used.
from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb

from state import generation
from state.store import MAX_DATABASES, MAX_READERS, Stage, Store, StoreError
from state.store_errors import explained, naming

if TYPE_CHECKING:
    from lmdb import _Database as Database

_ROWS_A_COMMIT = 200_000


def compact(path: Path, stage: Stage) -> tuple[int, int]:
    """Compact the store at `path`; the size of its file before and after, in bytes.

    For whoever may write the store: nobody else has it open for writing meanwhile. A compact copy takes the place of
    the store's files in one rename: whenever the process ends, the store is the old or the new one, and their content
    is the same. Readers go on with what they have open, see `is_outdated`, and open the path anew. Raises StoreError.
    """
    with Store(path, stage, writer=True) as store:
        before = store.file_bytes()
        with naming(path):
            folder = generation.next_folder(path)
        try:
            copy_rows(store, folder)
            with naming(path):
                generation.switch(path, folder)
        except StoreError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        with naming(path):
            generation.tidy(path)
        return before, (folder / "data.mdb").stat().st_size


def copy_rows(store: Store, folder: Path) -> None:
    """Write all databases of the last commit into a new environment, row by row in their order.

    Not LMDB's own compacting copy: the one of 0.9.36 ends the process (SIGSEGV) where a user's set of rows of one
    length has outgrown a page, which is where a sequence has some fifty entries. Raises StoreUnwritable.
    """
    try:
        target = lmdb.open(
            str(folder),
            map_size=store.map_size_bytes,
            max_dbs=MAX_DATABASES,
            max_readers=MAX_READERS,
            sync=False,  # once, at the end
            lib_version=0,
        )
        try:
            with store.read() as txn:
                for name, database in store.databases(txn).items():
                    flags = database.flags()
                    new = target.open_db(name.encode(), dupsort=flags["dupsort"], dupfixed=flags["dupfixed"])
                    _append(target, new, iter(txn.cursor(database)))
            target.sync(True)
        finally:
            target.close()
    except lmdb.Error as error:
        raise explained(folder, error, "written") from error


def _append(target: lmdb.Environment, database: Database, rows: Iterator[tuple[bytes, bytes]]) -> None:
    taken = _ROWS_A_COMMIT
    while taken == _ROWS_A_COMMIT:
        with target.begin(write=True) as txn:
            taken, added = txn.cursor(database).putmulti(islice(rows, _ROWS_A_COMMIT), append=True)
        if added != taken:
            raise StoreError(f"{target.path()}: {taken} rows came in order, and {added} were taken")
