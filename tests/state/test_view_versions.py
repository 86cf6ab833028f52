# Whatever the writer does, a reader of the view finds one version; mutants that mix versions are caught.
from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from state.generation import current
from state.home import Home
from state.meta import get_version
from state.tables import get_user_row
from state.view import View
from tests.state.sentinel import NUM_ITEMS, USERS, Sentinel, write_fold, writing

DEADLINE_SECONDS = 60.0

pytestmark = pytest.mark.usefixtures("eager_switching")


class OneHomeView(View[Sentinel]):
    """The mutant without the swap: it writes the home that is read."""

    def _free_home(self) -> Home[Sentinel]:
        self._back = self._front
        return self._front


def unpinned_user_row(home: Home[Sentinel], model: str, table: str, user: bytes) -> NDArray[np.float32] | None:
    """The mutant that reads rows by user as they are now."""
    if home._learn is None:
        return None
    store = home._learn[0]
    with store.read() as txn:
        return get_user_row(txn, store, model, table, user)


def numbers_in(home: Home[Sentinel]) -> set[float]:
    """All that the home shows, read in an order that gives a writer time between the parts."""
    model = home.models["sentinel"]
    found = set(model.weights[:32].tolist())
    found |= set(model.rows.values[: NUM_ITEMS // 2].ravel().tolist())
    for user in USERS:
        row = home.user_row("sentinel", "users", user)
        assert row is not None
        found |= set(row.tolist())
    found |= set(model.rows.values[NUM_ITEMS // 2 : NUM_ITEMS].ravel().tolist())
    cells = model.cells.cells(NUM_ITEMS - 1)  # the fold store counts items from the other end
    found |= set(cells[1].tolist())
    return found | set(model.weights[32:].tolist()) | {float(Sentinel.number(home.version))}


class Watch:
    """Threads that look at a view while it is refreshed, and what they saw."""

    def __init__(self, view: View[Sentinel]) -> None:
        self._view = view
        self._stop = threading.Event()
        self.num_looks = 0
        self.versions: set[int] = set()
        self.torn: list[set[float]] = []
        self.failures: list[BaseException] = []

    def look(self) -> None:
        """Look until told to stop."""
        try:
            while not self._stop.is_set():
                with self._view.read() as home:
                    if (store := self._view.fold_store) is not None:
                        with store.read() as txn:  # as a request reads its user's record
                            assert get_version(txn, store, "fold") == 1
                    if home.version:
                        found = numbers_in(home)
                        self.versions.add(home.version)
                        self.num_looks += 1
                        if len(found) != 1:
                            self.torn.append(found)
        except Exception as failure:  # noqa: BLE001  the test looks at them
            self.failures.append(failure)

    def run_until(self, is_done: Callable[[Watch], bool]) -> None:
        """Refresh in this thread, look in others, until it is done."""
        threads = [threading.Thread(target=self.look) for _ in range(3)]
        for thread in threads:
            thread.start()
        give_up_at = time.monotonic() + DEADLINE_SECONDS
        try:
            while not is_done(self) and not self.failures:
                self._view.refresh()
                assert time.monotonic() < give_up_at, f"{self.num_looks} looks, {len(self.versions)} versions"
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("keep_versions", [1000, 2])
def test_readers_find_one_number_everywhere_while_versions_stream_in(tmp_path: Path, keep_versions: int) -> None:
    write_fold(tmp_path / "fold")
    view = View(tmp_path / "fold", tmp_path / "learn", lambda _: {"sentinel": Sentinel()})
    watch = Watch(view)
    with writing(tmp_path / "learn", keep_versions):
        watch.run_until(lambda watch: watch.num_looks > 3000 and len(watch.versions) > 100)
    assert (watch.torn, watch.failures) == ([], [])
    view.close()


def test_readers_find_one_number_everywhere_while_both_stores_are_compacted(tmp_path: Path) -> None:
    write_fold(tmp_path / "fold")
    view = View(tmp_path / "fold", tmp_path / "learn", lambda _: {"sentinel": Sentinel()})
    watch, files = Watch(view), set[str]()

    def is_done(watch: Watch) -> bool:
        files.add(current(tmp_path / "learn"))
        return len(files) > 20 and len(watch.versions) > 50

    with writing(tmp_path / "learn", 1000, compact_every=5):
        watch.run_until(is_done)
    assert (watch.torn, watch.failures) == ([], [])
    view.refresh()
    view.refresh()
    opened = [Path(link).name for link in open_files() if link.startswith(str(tmp_path))]
    assert sum(name == "data.mdb" for name in opened) == 2  # the old ones are closed: the disk has their space again
    assert not any("(deleted)" in name for name in opened)
    view.close()


def open_files() -> list[str]:
    """What this process has open."""
    return [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]


@pytest.mark.parametrize("mutant", ["one home", "rows by user not pinned"])
def test_the_same_readers_catch_a_view_that_mixes_versions(
    tmp_path: Path, mutant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fold(tmp_path / "fold")
    kind = OneHomeView if mutant == "one home" else View
    if mutant != "one home":
        monkeypatch.setattr(Home, "user_row", unpinned_user_row)
    view = kind(tmp_path / "fold", tmp_path / "learn", lambda _: {"sentinel": Sentinel()})
    watch = Watch(view)
    with writing(tmp_path / "learn", 1000):
        watch.run_until(lambda watch: bool(watch.torn))
    assert watch.torn or watch.failures  # what is written while it is read may also break
