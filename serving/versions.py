# Follows the stages' stores in a background thread, so that a request finds the newest version at hand.
from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, perf_counter

import lmdb

from models.base import Model
from serving.metrics import ServingMetrics
from serving.problems import unavailable
from serving.stages import Stages
from state.home import Home
from state.store import Store, StoreError
from state.view import View

_LOG = logging.getLogger("runnel.serving")


@dataclass(frozen=True, slots=True)
class VersionsConfig:
    """How often to look."""

    refresh_seconds: float = 0.02
    retry_seconds: float = 0.5  # while a store cannot be read
    stages_seconds: float = 0.2  # between two looks at who writes the stores


class Versions:
    """Takes over version after version of a view, from the moment there is a fold store.

    A store that cannot be read keeps the loaded version answering; before the first one, requests are told the reason.
    """

    def __init__(
        self, view: View[Model], stages: Stages, metrics: ServingMetrics, config: VersionsConfig | None = None
    ) -> None:
        self._view, self._stages, self._metrics, self._config = view, stages, metrics, config or VersionsConfig()
        self._reason = "there is no fold store yet; `runnel fold` makes it"
        self._is_ready = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="versions", daemon=True)
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether a version is loaded."""
        return self._is_ready

    @property
    def is_alive(self) -> bool:
        """Whether new versions are still being followed."""
        return self._thread.is_alive()

    @contextmanager
    def read(self) -> Iterator[tuple[Store, Home[Model]]]:
        """The fold store and one version that does not change while the block runs. Raises Problem 503 before the
        first version is loaded."""
        with self._view.read() as home:
            store = self._view.fold_store if self._is_ready else None  # once home is held: both stay open
            if store is None:
                raise unavailable(f"no version is loaded: {self._reason}")
            yield store, home

    def close(self) -> None:
        """Stop following and let go of the stores; no request may run any more."""
        self._stop.set()
        self._thread.join()
        self._is_ready = False
        self._view.close()

    def _run(self) -> None:
        look_again = 0.0
        while not self._stop.is_set():
            if (now := monotonic()) >= look_again:
                self._stages.watch()
                look_again = now + self._config.stages_seconds
            try:
                self._refresh()
            except (StoreError, lmdb.Error) as error:
                self._reason = str(error)
                self._metrics.refresh_errors.inc()
                _LOG.warning("cannot take over new versions: %s", error)
                self._stop.wait(self._config.retry_seconds)
            self._stop.wait(self._config.refresh_seconds)

    def _refresh(self) -> None:
        start = perf_counter()
        is_new = self._view.refresh()
        self._is_ready = self._view.fold_store is not None  # empty stores are a version too: 0
        if not is_new:
            return
        self._metrics.refresh_seconds.observe(perf_counter() - start)
        with self._view.read() as home:
            self._metrics.took_over(home)
