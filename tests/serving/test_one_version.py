# Each answer of a service is of one version, however fast versions stream in; a view without the swap is caught.
from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.base import Batch, Model, Query
from serving.schemas import RecommendationRequest, SlateReply
from serving.service import Service, ServiceConfig
from serving.versions import VersionsConfig
from state.home import Home
from state.signals import SignalTable
from state.view import View
from tests.commands.whole_system import NoSink
from tests.serving.helpers import NOW, wait_until
from tests.state.sentinel import NUM_ITEMS, Sentinel, write_fold, writing

NUM_ANSWERS = 100_000
NUM_THREADS = 3
DEADLINE_SECONDS = 120.0


class ScoringSentinel(Sentinel):
    """A model whose score of each item is its version, read from rows, dense weights and cells in turn."""

    name, replays = "sentinel", False

    @property
    def num_items(self) -> int:
        return NUM_ITEMS

    def learn(self, batch: Batch) -> float:
        raise NotImplementedError(f"a server does not learn: {batch}")

    def score(self, query: Query, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """[Q, M]: read part after part, which gives a writer time between them."""
        items = np.arange(NUM_ITEMS) if items is None else items
        scores = np.zeros((len(query.now), len(items)), np.float32)
        scores[:, 0::4] = self.weights[0]
        scores[:, 1::4] = self.rows.values[items[1::4], 0] if len(self.rows.values) >= NUM_ITEMS else 0
        scores[:, 2::4] = self.cells.cells(NUM_ITEMS - 1)[1][:1]  # the fold store counts items from the other end
        scores[:, 3::4] = self.weights[-1]
        return scores


class OneHomeView(View[Model]):
    """The mutant without the swap: it writes the home that is read."""

    def _free_home(self) -> Home[Model]:
        self._back = self._front
        return self._front


class Askers:
    """Threads that ask for lists, and the answers that show more than one number."""

    def __init__(self, service: Service) -> None:
        self._service, self._stop = service, threading.Event()
        self.num_answers = 0
        self.versions: set[int] = set()
        self.torn: list[SlateReply] = []
        self.failures: list[BaseException] = []

    def run_until(self, is_done: Callable[[Askers], bool]) -> None:
        """Ask until it is done, or something went wrong."""
        threads = [threading.Thread(target=self._ask) for _ in range(NUM_THREADS)]
        for thread in threads:
            thread.start()
        give_up_at = time.monotonic() + DEADLINE_SECONDS
        try:
            while not is_done(self) and not self.failures:
                assert time.monotonic() < give_up_at, f"{self.num_answers} answers, {len(self.versions)} versions"
                time.sleep(0.01)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _ask(self) -> None:
        items = [f"i{number}" for number in range(0, NUM_ITEMS, NUM_ITEMS // 12)]
        request = RecommendationRequest(user_id="u0", n=8, candidates=items, model="sentinel")
        try:
            while not self._stop.is_set():
                reply = self._service.recommend(request, NOW)
                numbers = {item.score for item in reply.items} | {float(Sentinel.number(reply.model_version))}
                if len(numbers) != 1 or len(reply.items) != 8:
                    self.torn.append(reply)
                self.versions.add(reply.model_version)
                self.num_answers += 1  # of threads: a lost count asks for one answer more
        except Exception as failure:  # noqa: BLE001  the test looks at them
            self.failures.append(failure)


def open_service(folder: Path, kind: type[View[Model]]) -> Service:
    """A service over the sentinel's stores that looks for a new version as often as it can."""
    view = kind(folder / "fold", folder / "learn", lambda _: {"sentinel": ScoringSentinel()})
    config = ServiceConfig(folder, versions=VersionsConfig(refresh_seconds=0.001))
    return Service(config, view, NoSink(), lambda: NOW, SignalTable())


def is_serving(service: Service) -> bool:
    """Whether there is a version."""
    if not service.versions.is_ready:
        return False
    with service.versions.read() as (_, home):
        return home.version > 0


@pytest.mark.usefixtures("eager_switching")
def test_a_hundred_thousand_answers_under_fifty_versions_a_second_show_one_number_each(tmp_path: Path) -> None:
    write_fold(tmp_path / "fold")
    with writing(tmp_path / "learn", keep_versions=1000, seconds_a_version=0.02):
        service = open_service(tmp_path, View)
        wait_until(lambda: is_serving(service), "a version is loaded")
        askers = Askers(service)
        askers.run_until(lambda askers: askers.num_answers >= NUM_ANSWERS)
        service.close()
    assert (askers.torn, askers.failures) == ([], [])
    assert len(askers.versions) > 100


@pytest.mark.usefixtures("eager_switching")
def test_the_same_askers_catch_a_view_that_writes_the_home_that_is_read(tmp_path: Path) -> None:
    write_fold(tmp_path / "fold")
    with writing(tmp_path / "learn", keep_versions=1000):
        service = open_service(tmp_path, OneHomeView)
        wait_until(lambda: is_serving(service), "a version is loaded")
        askers = Askers(service)
        askers.run_until(lambda askers: bool(askers.torn))
        service.close()
    assert askers.torn or askers.failures  # what is written while it is read may also break
