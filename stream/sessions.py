# The sessions of a stage: from opening its store to letting go of it, again and again until it is told to stop.
from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic, sleep

import lmdb

from state.store_errors import UNSOUND, StoreUnwritable
from stream.loan import is_wanted
from stream.metrics import StageMetrics
from stream.source import SourceError

_log = logging.getLogger(__name__)
IsOver = Callable[[], bool]


@dataclass(frozen=True)
class SessionConfig:
    """Patience with a disk that does not take what is written, or a source that does not answer, in seconds."""

    first_backoff: float = 0.25
    longest_backoff: float = 5.0
    calm_after: float = 30.0  # a session that lasted so long begins again at the first back-off


def run_sessions(
    path: Path,
    stop: Event,
    session: Callable[[IsOver], None],
    config: SessionConfig | None = None,
    metrics: StageMetrics | None = None,
) -> None:
    """Run sessions of the stage that writes the store at `path`, until `stop` is set.

    A session opens what it needs, steps until it is told that it is over, and closes all again. It is over when the
    stage is to stop or a command wants the store; then the next one begins when the command is done. A fault of the
    disk (full, read-only, broken) or of the source ends a session with nothing lost: it is logged and tried again, each
    time a little later, until the cause is gone. All other errors leave.
    """
    config = config or SessionConfig()
    backoff = config.first_backoff
    while not stop.is_set():
        began_at = monotonic()
        try:
            session(lambda: stop.is_set() or is_wanted(path))
        except UNSOUND:
            raise
        except (StoreUnwritable, SourceError, lmdb.Error, OSError) as error:
            if monotonic() - began_at >= config.calm_after:
                backoff = config.first_backoff
            if metrics is not None:
                metrics.failures.inc()
            _log.error("%s stands still, and tries again in %.2f s: %s", path.name, backoff, error)
            pause(stop.is_set, backoff)
            backoff = min(2 * backoff, config.longest_backoff)
            continue
        backoff = config.first_backoff
        if is_wanted(path):
            _log.info("%s: a command works on the store", path.name)
        while is_wanted(path) and not stop.is_set():
            pause(stop.is_set, 0.02)


def pause(is_over: IsOver, seconds: float) -> None:
    """Sleep so long, or until it is over.

    Not `Event.wait`: that holds the event's lock for moments, and a signal handler that calls `set` in one of them
    waits for ever for the thread it interrupted.
    """
    until = monotonic() + seconds
    while not is_over() and (left := until - monotonic()) > 0:
        sleep(min(left, 0.05))
