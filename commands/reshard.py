# runnel reshard: another number of folds, while nothing runs.
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commands.options import Kafka

_FROM = typer.Option("--from", help="A fold's home; give all, in the order of their numbers.")
_TO = typer.Option("--to", help="A home without a fold store, for each fold that there will be, in order.")
_LEARN = typer.Option("--learn", help="The learner's home.")


def reshard(
    sources: Annotated[list[Path], _FROM],
    targets: Annotated[list[Path], _TO],
    learn: Annotated[Path, _LEARN],
    kafka: Kafka = None,
) -> None:
    """Divide the stores of all folds anew among another number of folds. Folds and learner must not run.

    The old homes stay as they are. Then start the new ones with --folds, learner and followers too. Nodes begin from
    snapshots, which this writes where the settings say (fold.snapshots, learn.snapshots).
    """
    from contextlib import ExitStack
    from dataclasses import replace

    from commands.errors import CommandError, told_plainly
    from commands.settings import load_settings
    from state.snapshots import write_snapshot
    from state.store import Store, StoreError
    from stream.kafka_topics import grow_topic
    from stream.reshard import Reshard
    from stream.run import now_ms
    from stream.source import SourceError

    settings = load_settings(servers=kafka)
    if not settings.kafka.has_delta_topics:
        raise CommandError("several folds read a Kafka: --kafka HOST:PORT, or kafka.servers in the settings")
    topics, fold = settings.kafka.topics, settings.fold
    for path in (*(source / "fold" for source in sources), learn / "learn"):
        if not path.is_dir():
            raise CommandError(f"{path}: there is no store")
    if len({path.resolve() for path in targets}) < len(targets):
        raise CommandError("--to: each fold needs a home of its own")
    with told_plainly(StoreError, SourceError), ExitStack() as stack:
        stores = [stack.enter_context(Store(source / "fold", "fold", writer=True)) for source in sources]
        learned = stack.enter_context(Store(learn / "learn", "learn", writer=True))
        grow_topic(settings.kafka, topics.fold_deltas, len(targets))
        version = Reshard(stores, learned, topics.items).divide([target / "fold" for target in targets], now_ms())
        for number, target in enumerate(targets):
            kept = replace(fold, number=number, num_folds=len(targets)).own_snapshots(target)
            with Store(target / "fold") as made:
                write_snapshot(made, kept.where(target), kept.keep)
        snapshots = settings.learn.snapshots
        write_snapshot(learned, snapshots.where(learn), snapshots.keep)
    print(f"{len(targets)} folds begin at version {version}: start each with --number and --folds {len(targets)}")
