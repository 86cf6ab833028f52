# The shipper beside a stage: a process of its own that ends with the stage, and is started again when it dies.
from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import monotonic

from commands.settings import Settings
from commands.supervisor import Supervisor
from state.store import Stage

_LOOK_SECONDS = 0.2
_log = logging.getLogger(__name__)


@contextmanager
def shipping(settings: Settings, stage: Stage) -> Iterator[None]:
    """Have the deltas of a stage shipped meanwhile, where they travel on topics."""
    if not settings.kafka.has_delta_topics:
        yield
        return
    run_dir = settings.home / "run"
    run_dir.mkdir(parents=True, exist_ok=True)
    supervisor, stop = Supervisor(run_dir, secrets.token_hex(8), _log.warning), Event()
    thread = Thread(target=_watch, args=(supervisor, stop), name="shipping", daemon=True)
    supervisor.start(f"ship-{stage}", _command(settings, stage), monotonic())
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        supervisor.stop()


def _watch(supervisor: Supervisor, stop: Event) -> None:
    while not stop.wait(_LOOK_SECONDS):
        supervisor.poll(monotonic())


def _command(settings: Settings, stage: Stage) -> list[str]:
    fold = ["--number", str(settings.fold.number), "--folds", str(settings.fold.num_folds)]
    options = ["--home", str(settings.home.resolve()), "--kafka", settings.kafka.servers, *fold]
    runnel = str(Path(__file__).resolve().parent.parent / "runnel.py")
    return [sys.executable, runnel, "ship", stage, *options, "--supervisor", str(os.getpid())]
