# runnel learn: the second stage as one process.
from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from commands.options import Deltas, Folds, Home, Kafka, Seed, Supervisor

_REBUILD = typer.Option(
    help="Have this model trained anew beside the served one, whose place it takes once its live hit rate is as good; "
    "also while the system runs. Returns at once: the learner does it."
)
_CANCEL = typer.Option(help="Stop the rebuild of this model, and return.")
_LOSS = typer.Option(
    "--accept-loss",
    help="Where Kafka no longer holds the deltas that come next, pass over them, tell which, and return.",
)
_HISTORY = typer.Option(
    help="Fold and learn this file of past events (JSON lines) in one pass, before the home's system runs, and return. "
    "Stopped or killed, it goes on where it was; events that come again later count once."
)
_RELEASE = typer.Option(help="Let this held model learn again, also while the system runs, and return.")


def learn(
    home: Home = None,
    seed: Seed = None,
    kafka: Kafka = None,
    deltas: Deltas = None,
    folds: Folds = None,
    rebuild: Annotated[str | None, _REBUILD] = None,
    cancel: Annotated[str | None, _CANCEL] = None,
    lose: Annotated[bool, _LOSS] = False,
    release: Annotated[list[str] | None, _RELEASE] = None,
    history: Annotated[Path | None, _HISTORY] = None,
    supervisor: Supervisor = 0,
) -> None:
    """Run the learn stage: read what fold wrote, score and learn, commit a model version every half second.

    One of the processes that `runnel up` starts. It stops cleanly on Ctrl-C and SIGTERM, and goes on from its last
    version when killed. Under torchrun it is a learn group: rank 0 learns, the others compute gradients for it.
    """
    if rebuild or cancel or release:
        _order(home, rebuild, cancel, release or [])
        return
    if lose:
        _accept_gap(home, kafka, folds)
        return
    if history is not None:
        _learn_history(history, home, seed, kafka)
        return
    from commands.child import begin
    from commands.errors import told_plainly
    from commands.ranks import help_rank_0, join
    from commands.settings import load_settings
    from commands.shipping import shipping
    from models.configured import WrongConfiguration
    from state.slots import Slot
    from state.store import StoreConfigurationChanged, StoreTooNew
    from stream.metrics import StageMetrics
    from stream.run_learn import run_learn

    settings = load_settings(home=home, seed=seed, servers=kafka, deltas=deltas, num_folds=folds)
    group = join()
    if group is not None and group.rank:
        help_rank_0(group, settings.learn.num_threads)
        return
    stop = begin("learn", supervisor or (os.getppid() if group is not None else 0))  # torchrun supervises its ranks
    metrics = StageMetrics("learn", Slot(settings.home / "run" / "metrics", "learn"))
    config, num_folds = settings.learn_config(), settings.fold.num_folds
    with told_plainly(StoreConfigurationChanged, StoreTooNew, WrongConfiguration), shipping(settings, "learn"):
        run_learn(settings.home, stop, settings.seed, config, metrics, settings.kafka, num_folds, group)
    if group is not None:
        group.stop()


def _learn_history(file: Path, home: Path | None, seed: int | None, kafka: str | None) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from commands.child import begin
    from commands.claim import Claim
    from commands.errors import CommandError, told_plainly
    from commands.settings import load_settings
    from models.configured import WrongConfiguration
    from state.store import StoreError
    from stream.guard import ModelHeld
    from stream.readers import DataError, open_data_set
    from stream.warm_start import warm_start

    settings, console = load_settings(home=home, seed=seed, servers=kafka), Console(stderr=True)
    if settings.kafka.servers:
        raise CommandError("--history is for a home with a log of its own; `runnel send FILE --kafka` feeds a Kafka")
    errors = (DataError, ModelHeld, StoreError, WrongConfiguration)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    found, stop = None, begin("learn", 0)
    with told_plainly(*errors), ExitStack() as stack:
        _, num_events = open_data_set("events", file)
        stack.callback(Claim(settings.home).release)
        progress = stack.enter_context(Progress(*columns, console=console))
        task = progress.add_task(f"learning {file.name}", total=num_events)
        passes = warm_start(settings.home, file, settings.fold, settings.learn_config(), settings.seed, stop.is_set)
        for found in passes:
            progress.update(task, completed=found.num_read)
    if found is None:
        console.print(f"{file}: all of it was learned before")
    else:
        told = f"{found.num_read:,} events read, {found.num_learned:,} learned, {found.num_rejected:,} broke a rule"
        console.print(f"{told}; model version {found.version}")


def _accept_gap(home: Path | None, kafka: str | None, num_folds: int | None) -> None:
    from commands.errors import CommandError, told_plainly
    from commands.settings import load_settings
    from state.store import Store, StoreError
    from stream.folds import accept_gap
    from stream.loan import borrowed
    from stream.run import now_ms
    from stream.source import SourceError

    settings = load_settings(home=home, servers=kafka, num_folds=num_folds)
    path = settings.home / "learn"
    if not settings.kafka.has_delta_topics or not path.is_dir():
        raise CommandError(f"{settings.home}: --accept-loss is for a learner that reads a Kafka (--kafka HOST:PORT)")
    with told_plainly(StoreError, SourceError), borrowed(path), Store(path, "learn", writer=True) as store:
        passed = accept_gap(store, settings.kafka, settings.fold.num_folds, now_ms())
    for name, (learned, now) in passed.items():
        print(f"{name}: learned up to {learned}; goes on behind {now}")
    if not passed:
        print("nothing is lost: Kafka holds all that comes next")


def _order(home: Path | None, rebuild: str | None, cancel: str | None, released: list[str]) -> None:
    """Write what the learner is to do into its store."""
    from commands.errors import CommandError, told_plainly
    from commands.settings import load_settings
    from state.store import Store, StoreError
    from stream import rebuild as rebuilding
    from stream.guard import release
    from stream.loan import borrowed
    from stream.run import now_ms

    path = load_settings(home=home).home / "learn"
    if not path.is_dir():
        raise CommandError(f"{path}: there is no learn store; name another --home")
    with told_plainly(StoreError, ValueError), borrowed(path), Store(path, "learn", writer=True) as store:
        if released:
            print(f"released with version {release(store, released, now_ms())}: {', '.join(released)}")
        if cancel:
            rebuilding.cancel(store, cancel)
            print(f"the rebuild of {cancel} is stopped; the model that was served stays")
        if rebuild:
            rebuilding.begin(store, rebuild)
            print(f"{rebuild} is trained anew by the learner, now or when it next runs; its log tells how far it is")
