# runnel fold: the first stage as one process.
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from commands.options import Deltas, Folds, Home, Kafka, Number, Supervisor

if TYPE_CHECKING:
    from commands.settings import Settings

_ACCEPT_LOSS = typer.Option(
    "--accept-loss",
    help="Where Kafka no longer holds what comes next, go on with what it holds, tell what was passed over, and "
    "return; also while the system runs.",
)


def fold(
    home: Home = None,
    kafka: Kafka = None,
    deltas: Deltas = None,
    number: Number = None,
    folds: Folds = None,
    lose: Annotated[bool, _ACCEPT_LOSS] = False,
    supervisor: Supervisor = 0,
) -> None:
    """Run the fold stage: read events from the log, keep user records and the catalogue.

    One of the processes that `runnel up` starts. It stops cleanly on Ctrl-C and SIGTERM, and loses nothing when killed.
    """
    from commands.child import begin
    from commands.errors import told_plainly
    from commands.settings import load_settings
    from commands.shipping import shipping
    from state.slots import Slot
    from state.store import StoreConfigurationChanged, StoreTooNew
    from stream.metrics import StageMetrics
    from stream.run import run_fold

    settings = load_settings(home=home, servers=kafka, deltas=deltas, number=number, num_folds=folds)
    if lose:
        _accept_loss(settings)
        return
    stop = begin("fold", supervisor)
    metrics = StageMetrics("fold", Slot(settings.home / "run" / "metrics", "fold"))
    with told_plainly(StoreConfigurationChanged, StoreTooNew), shipping(settings, "fold"):
        run_fold(settings.home, stop, settings.fold, metrics, settings.kafka)


def _accept_loss(settings: Settings) -> None:
    from contextlib import closing

    from commands.errors import CommandError, told_plainly
    from state.store import Store, StoreError
    from stream.kafka_source import KafkaSource
    from stream.loan import borrowed
    from stream.losses import accept_loss
    from stream.source import SourceError

    path = settings.home / "fold"
    if not settings.kafka.servers or not path.is_dir():
        raise CommandError(f"{settings.home}: --accept-loss is for a home that has folded a Kafka (--kafka HOST:PORT)")
    with (
        told_plainly(StoreError, SourceError),
        borrowed(path),
        Store(path, "fold", writer=True) as store,
        closing(KafkaSource(settings.kafka, settings.fold.number, settings.fold.num_folds)) as source,
    ):
        moved = accept_loss(store, source)
    for partition, (before, now) in moved.items():
        print(f"{partition}: {before} would have been next; it goes on at {now}")
    if not moved:
        print("nothing is lost: Kafka holds all that comes next")
