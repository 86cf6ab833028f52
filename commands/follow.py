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
    from state.follower import LEARN
    from state.slots import Slot
    from state.store import StoreConfigurationChanged, StoreTooNew
    from stream.metrics import StageMetrics
    from stream.run_follow import run_follow
    from stream.shipped import fold_name

    stop = begin("follow", supervisor)
    settings = load_settings(home=home, servers=kafka, num_folds=folds)
    if not settings.kafka.has_delta_topics:
        raise CommandError("there is no Kafka to follow: --kafka HOST:PORT, or kafka.servers in the settings")
    metrics = StageMetrics("follow", Slot(settings.home / "run" / "metrics", "follow"))
    place, fold = settings.home, settings.fold
    snapshots = {
        fold_name(number): fold.snapshots.of_fold(place, number, fold.num_folds).where(place)
        for number in range(fold.num_folds)
    }
    snapshots[LEARN] = settings.learn.snapshots.where(place)
    with told_plainly(StoreConfigurationChanged, StoreTooNew):
        run_follow(place, stop, settings.kafka, snapshots, settings.follow, fold.stage.records, metrics)
