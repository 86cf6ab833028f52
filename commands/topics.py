# runnel topics: makes what is missing of Runnel's topics on a Kafka.
from __future__ import annotations

from typing import Annotated

import typer

from commands.options import Folds, Kafka

_PARTITIONS = typer.Option(
    min=1, help="Of events and items, where they are made; each fold reads its share of the events'."
)
_REPLICAS = typer.Option(min=-1, help="Copies of each. (default: as many as the brokers' default)")


def topics(
    kafka: Kafka = None,
    partitions: Annotated[int, _PARTITIONS] = 1,
    replicas: Annotated[int, _REPLICAS] = -1,
    folds: Folds = None,
) -> None:
    """Make those of Runnel's topics that a Kafka does not have yet, with the settings they need."""
    from commands.errors import CommandError, told_plainly
    from commands.settings import load_settings
    from stream.kafka_topics import make_topics
    from stream.source import SourceUnready

    settings = load_settings(servers=kafka, num_folds=folds)
    config = settings.kafka
    if not config.servers:
        raise CommandError("no Kafka is named: --kafka HOST:PORT, or kafka.servers in the settings")
    with told_plainly(SourceUnready):
        made = make_topics(config, partitions, replicas, settings.fold.num_folds)
    print(f"made {', '.join(made)}" if made else "all topics are there already")
