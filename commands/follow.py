# runnel follow: the follower of a serving node as one process.
from __future__ import annotations

from commands.options import Folds, Home, Kafka, Supervisor


def follow(home: Home = None, kafka: Kafka = None, folds: Folds = None, supervisor: Supervisor = 0) -> None:
    """Keep a node's own store at the versions of all stages, from Kafka's delta topics: `runnel serve` serves from it.

    One for each node. It stops cleanly on Ctrl-C and SIGTERM, and goes on where its store stands when killed.
    """
    from commands.child import begin
    from commands.errors import CommandError, told_plainly
    from commands.settings import load_settings
    from state.slots import Slot
    from state.store import StoreConfigurationChanged, StoreTooNew
    from stream.metrics import StageMetrics
    from stream.run_follow import run_follow

    stop = begin("follow", supervisor)
    settings = load_settings(home=home, servers=kafka, num_folds=folds)
    if not settings.kafka.has_delta_topics:
        raise CommandError("there is no Kafka to follow: --kafka HOST:PORT, or kafka.servers in the settings")
    metrics = StageMetrics("follow", Slot(settings.home / "run" / "metrics", "follow"))
    limits = settings.fold.stage.records
    with told_plainly(StoreConfigurationChanged, StoreTooNew):
        run_follow(settings.home, stop, settings.kafka, settings.fold.num_folds, settings.follow, limits, metrics)
