# runnel fold: the first stage as one process.
from __future__ import annotations

from commands.options import Home, Supervisor


def fold(home: Home = None, supervisor: Supervisor = 0) -> None:
    """Run the fold stage: read events from the log, keep user records and the catalogue.

    One of the processes that `runnel up` starts. It stops cleanly on Ctrl-C and SIGTERM, and loses nothing when killed.
    """
    from commands.child import begin
    from commands.errors import told_plainly
    from commands.settings import load_settings
    from state.slots import Slot
    from state.store import StoreConfigurationChanged, StoreTooNew
    from stream.metrics import StageMetrics
    from stream.run import run_fold

    stop = begin("fold", supervisor)
    settings = load_settings(home=home)
    metrics = StageMetrics("fold", Slot(settings.home / "run" / "metrics", "fold"))
    with told_plainly(StoreConfigurationChanged, StoreTooNew):
        run_fold(settings.home, stop, settings.fold, metrics)
