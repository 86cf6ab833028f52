# What the processes that `runnel up` supervises do first: log to stderr, and end with their supervisor.
from __future__ import annotations

import os
import signal
import threading

from commands.processes import die_with
from serving.logs import on_thread_end, set_up_logs

_BROKEN = 1  # exit code: a fault of ours
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def begin(process: str, supervisor: int) -> threading.Event:
    """Set up logging and return the event that SIGTERM and SIGINT set. Call in the main thread, before any other.

    A stage one of whose threads is ended by an error ends at once, and with it: going on without it would be standing
    still in silence, and whoever supervises it starts it again. (Ray's threads in `serve` are Ray's to look after.)
    """
    # Two stages and the replicas share the cores: a process that spreads over all of them makes the others wait.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    set_up_logs(process)
    if process != "serve":
        on_thread_end(lambda: os._exit(_BROKEN))  # a stage may end at any instant: its commit is what counts
    stop = threading.Event()

    def tell(*_: object) -> None:
        for number in _SIGNALS:  # an event that is set within its own `set` waits for itself for ever
            signal.signal(number, signal.SIG_IGN)
        stop.set()

    for number in _SIGNALS:
        signal.signal(number, tell)
    die_with(supervisor)
    return stop
