# A store: one LMDB environment that one process writes and many read, and what it says about itself in `meta`.
from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, cast, get_args

import lmdb
import msgspec

from state import generation
from state.big_files import copy_file
from state.lock import StoreError, StoreLocked, WriterLock, refuse_torn
from state.soundness import unsound
from state.store_errors import (
    StoreConfigurationChanged,
    StoreMissing,
    StoreTooNew,
    StoreUnwritable,
    explained,
    naming,
)

if TYPE_CHECKING:
    from lmdb import _Database as Database

__all__ = ["Stage", "Store", "StoreConfigurationChanged", "StoreError", "StoreLocked", "StoreMissing"]
__all__ += ["StoreTooNew", "StoreUnwritable", "Txn"]

FORMAT = 1
MAX_DATABASES = 128
MAX_READERS = 1024  # fixed by whoever creates the lock file: every opener uses the same
Stage = Literal["fold", "learn", "follow"]
Txn: TypeAlias = "lmdb.Transaction[bytes]"
_Value = TypeVar("_Value")
_PLAIN = ("dictionary", "catalogue", "first_seen", "offsets", "totals", "tombstones", "deltas:fold", "deltas:learn")
_FIXED_ROWS = ("sequence", "seen", "dislikes")  # sorted duplicates of one length each
_ROWS = ("slates", "impressions")


class Store:
    """One LMDB environment (engine 0.9, default flags: a commit is synced).

    Everything that belongs together is written in one `with store.write() as txn`. When that raises, nothing of it is
    on disk, and what flushes have noted in memory is not to be believed: drop the objects and open the store anew.
    A reader takes the stage from the store. A process may open a path once (LMDB's rule): share the object. Open
    after fork, never before.

    Raises StoreLocked, StoreTooNew, StoreMissing (reader only) or StoreError, each naming the path.
    """

    def __init__(
        self, path: Path, stage: Stage | None = None, writer: bool = False, map_size_bytes: int = 64 << 30
    ) -> None:
        if writer and stage is None:
            raise ValueError(f"store {path}: a writer says which stage it is")
        self.path, self.is_writer, self.map_size_bytes = Path(path), writer, map_size_bytes
        self.commit_seconds = 0.0  # what the last write took from its begin until it was on disk
        self._lock: WriterLock | None = None
        self._databases: dict[str, Database] = {}
        self._mutex = threading.Lock()
        self._num_readers = 0
        refuse_torn(self.path)
        if writer:
            with naming(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock = WriterLock(self.path)
        try:
            self._env = self._open(map_size_bytes)
            self.stage: Stage = self._prepare(stage)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give up the environment and the writer's lock. May be called twice."""
        if hasattr(self, "_env"):
            self._env.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, map_size_bytes: int) -> lmdb.Environment:
        while True:
            self._generation = generation.current(self.path)
            folder = self.path / self._generation
            if self.is_writer:
                with naming(self.path):
                    generation.tidy(self.path)
                    if not (folder / "lock.mdb").exists():
                        self._open_files(folder, map_size_bytes).close()
                    generation.allocate_lock_file(folder)
            try:
                env = self._open_files(folder, map_size_bytes)
            except StoreError:
                if not self.is_outdated:
                    raise
                continue  # compacted while it was opened
            if not self.is_outdated:
                return env
            env.close()

    def _open_files(self, folder: Path, map_size_bytes: int) -> lmdb.Environment:
        if not self.is_writer and not generation.is_filled(folder):  # a writer may be making it just now
            raise StoreMissing(f"store {self.path}: there is none yet")
        try:
            return lmdb.open(
                str(folder),
                map_size=map_size_bytes,
                readonly=not self.is_writer,
                max_dbs=MAX_DATABASES,
                max_readers=MAX_READERS,
                readahead=False,
                lib_version=0,  # engine 0.9
            )
        except lmdb.Error as error:
            raise explained(self.path, error, "opened") from error

    @property
    def is_outdated(self) -> bool:
        """Whether the store was compacted since it was opened: what is read stays as it is. Open the path anew."""
        return generation.current(self.path) != self._generation

    @property
    def last_commit(self) -> int:
        """Number of the newest commit, cheaper than a read; maybe ahead of a transaction (`id`) that begins now."""
        return self._env.info()["last_txnid"]

    def _prepare(self, wanted: Stage | None) -> Stage:
        """Check who wrote the store; a new one is given its databases and its `meta`. The stage it belongs to."""
        if self.find("meta") is None:
            if wanted is None or not self.is_writer:
                raise StoreMissing(f"store {self.path}: there is none yet")
            self._create(wanted)
        self.end_read(self.begin_read_whole())
        with self.read() as txn:
            found, stage = self.get_meta(txn, "format", int) or 0, self.get_meta(txn, "stage", str)
        if found > FORMAT:
            known = f"store {self.path} has format {found}, this program knows formats up to {FORMAT}"
            raise StoreTooNew(f"{known}: use the newer version of the program that wrote it")
        if stage not in get_args(Stage) or wanted not in (None, stage):
            raise StoreError(f"store {self.path} is a {stage} store, not a {wanted} store: give the right path")
        return cast(Stage, stage)

    def _create(self, stage: Stage) -> None:
        with self.write() as txn:
            self.db("meta", txn=txn)
            for name in _PLAIN:
                self.db(name, txn=txn)
            for name in _FIXED_ROWS + _ROWS:
                self.db(name, dupsort=True, dupfixed=name in _FIXED_ROWS, txn=txn)
            self.put_meta(txn, "format", FORMAT)
            self.put_meta(txn, "stage", stage)
            self.put_meta(txn, "engine", "lmdb-0.9")

    @contextmanager
    def read(self) -> Iterator[Txn]:
        """A consistent look at the last commit; keep it short, for pages it needs are not reused meanwhile."""
        txn = self.begin_read()
        try:
            yield txn
        finally:
            self.end_read(txn)

    def begin_read(self) -> Txn:
        """A read transaction to be held for a while; `end_read` it. One thread at a time may use it."""
        with self._mutex:
            try:
                txn = self._env.begin()
            except lmdb.MapResizedError:
                if self._num_readers:  # remapping would pull the memory from under them
                    raise StoreError(f"store {self.path} outgrew the map size of this process: open it anew") from None
                self._env.set_mapsize(0)
                txn = self._env.begin()
            self._num_readers += 1
            return txn

    def begin_read_whole(self) -> Txn:
        """Like `begin_read`, with all databases of that commit at hand, also those that the writer added lately."""
        while True:
            txn = self.begin_read()
            missing = [name for name in _names(txn) if name not in self._databases]
            if not missing:
                return txn
            self.end_read(txn)  # a handle opened later is of no use to it
            for name in missing:
                self.db(name)

    def end_read(self, txn: Txn) -> None:
        """Let go of what `begin_read` gave."""
        txn.abort()
        with self._mutex:
            self._num_readers -= 1

    @contextmanager
    def write(self) -> Iterator[Txn]:
        """One commit: everything written with the transaction, or on any exception nothing. Synced at the end."""
        opened, started = set(self._databases), perf_counter()
        try:
            txn = self._env.begin(write=True)
            try:
                yield txn
                # LMDB shows a commit a moment before the handles it opened are good: nobody begins to read in between
                with self._mutex if self._databases.keys() > opened else nullcontext():
                    txn.commit()
            finally:
                txn.abort()  # nothing where it was committed
            self.commit_seconds = perf_counter() - started
        except BaseException as error:
            for name in set(self._databases) - opened:  # their handles went with the transaction
                del self._databases[name]
            if isinstance(error, lmdb.Error):
                size = self._env.info()["map_size"]
                raise explained(self.path, error, f"written at map_size_bytes = {size}") from error
            raise

    def db(self, name: str, dupsort: bool = False, dupfixed: bool = False, txn: Txn | None = None) -> Database:
        """The handle of a database, created where the writer asks for a new one (inside a write, give its txn)."""
        handle = self._databases.get(name)
        if handle is None:
            key, create = name.encode(), self.is_writer
            with self._mutex if txn is None else nullcontext():  # of a process, one thread at a time may open handles
                handle = self._env.open_db(key, txn=txn, create=create, dupsort=dupsort, dupfixed=dupfixed)
            self._databases[name] = handle
        return handle

    def find(self, name: str) -> Database | None:
        """The handle of a database, None where the store has none of that name. Not for use inside a write."""
        with self.read() as txn:
            return self.db(name) if name in _names(txn) else None

    def get_meta(self, txn: Txn, key: str, kind: type[_Value]) -> _Value | None:
        """What `put_meta` put, None where it is not there."""
        data = txn.get(key.encode(), db=self.db("meta"))
        return None if data is None else msgspec.msgpack.decode(data, type=kind)

    def put_meta(self, txn: Txn, key: str, value: object) -> None:
        """Write a fact of the store itself: numbers, strings, lists and dictionaries of them."""
        txn.put(key.encode(), msgspec.msgpack.encode(value), db=self.db("meta", txn=txn))

    def reader_check(self) -> int:
        """Free the reader slots of processes that died; how many. The writer calls it every few seconds."""
        return self._env.reader_check()

    def readers(self) -> tuple[int, int]:
        """How many reader slots are taken, and how many commits ago the oldest began: what was freed since stays."""
        lines = [line.split() for line in self._env.readers().splitlines()[1:]]
        reading = [int(line[2]) for line in lines if line[2].isdigit()]
        return len(lines), self.last_commit - min(reading) if reading else 0

    def databases(self, txn: Txn) -> dict[str, Database]:
        """All that the transaction sees, by name."""
        return {name: self.db(name) for name in _names(txn)}

    def file_bytes(self) -> int:
        """Size of the file that holds the store."""
        return (self.path / self._generation / "data.mdb").stat().st_size

    def copy(self, path: Path) -> None:
        """Write the last commit as a store at `path`, on disk when this returns, which appears complete or not at all.

        The file as it is, free pages too. Writers go on meanwhile; pages that they free are not used again before it
        is done. Raises StoreUnwritable where there is no room for it.
        """
        part = path.with_name(path.name + ".part")
        try:
            with naming(path):
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
                needed, free = self.file_bytes(), shutil.disk_usage(part).free
            if needed > free:
                raise StoreUnwritable(f"store {self.path}: a copy takes {needed} bytes, and {path} has {free} free")
            with naming(path):
                copy_file(self._env, part / "data.mdb")
                part.rename(path)
                generation.sync(path.parent)
        except lmdb.Error as error:
            raise explained(self.path, error, f"copied to {path}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def verify(self) -> list[str]:
        """What is structurally wrong with the file, empty when all is well; nothing may write meanwhile."""
        return unsound(self.path / self._generation)


def _names(txn: Txn) -> list[str]:
    """Of all databases. `Environment.dbs` would open them in a read transaction, which closes at its end the slots
    that a writer of this process has just opened."""
    return [name.decode() for name in txn.cursor().iternext(values=False)]
