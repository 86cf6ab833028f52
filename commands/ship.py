# runnel ship: copies the deltas of one stage to its topic.
from __future__ import annotations

from typing import Annotated, Literal

import typer

from commands.options import Folds, Home, Kafka, Number, Supervisor


def ship(
    stage: Annotated[Literal["fold", "learn"], typer.Argument(help="Whose deltas.")],
    home: Home = None,
    kafka: Kafka = None,
    number: Number = None,
    folds: Folds = None,
    supervisor: Supervisor = 0,
) -> None:
    """Copy the deltas of a stage's store to their Kafka topic, as they are committed.

    `runnel fold` and `runnel learn` start it beside them where deltas travel on topics.
    """
    from commands.child import begin
    from commands.settings import load_settings
    from state.follower import LEARN
    from stream.shipped import fold_key, fold_name, shipped_note
    from stream.shipper import run_ship

    stop = begin(f"ship-{stage}", supervisor)
    settings = load_settings(home=home, servers=kafka, number=number, num_folds=folds)
    fold = settings.fold
    is_fold = stage == "fold"
    name, key = (fold_name(fold.number), fold_key(fold.number, fold.num_folds)) if is_fold else (LEARN, LEARN)
    run_ship(settings.home / stage, shipped_note(settings.home, stage), stop, settings.kafka, name, key)
