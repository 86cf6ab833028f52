# runnel evaluate: how well the models learn, from a stream tested on every event or by a published protocol.
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commands.options import Seed

_MODELS = "popularity,recent,covisitation,transformer,blend"
_NAME = typer.Argument(help="Data set: globo, diginetica, ml-100k or events (our own JSON lines).")
_DATA = typer.Option(help="Directory of the data sets, or one such file. (default: $RUNNEL_DATA or ../shared/data)")
_PROTOCOL = typer.Option(help="A published protocol, over data of its own. (default: a stream's, SESSION-PREQ)")
_SEEDS = typer.Option(min=1, help="With --protocol: runs, of as many seeds from --seed on.")


def evaluate(
    name: Annotated[str, _NAME] = "",
    models: Annotated[str, typer.Option(help=f"Models to test, by commas. (default of streams: {_MODELS})")] = "",
    out: Annotated[Path, typer.Option(help="Directory for metrics.json, the CSV and the plot.")] = Path("out/evaluate"),
    data: Annotated[Path | None, _DATA] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many events of a stream.")] = None,
    protocol: Annotated[str, _PROTOCOL] = "",
    seeds: Annotated[int, _SEEDS] = 3,
    seed: Seed = None,
) -> None:
    """Evaluate models over a data set as a stream: each event is predicted first, then learned.

    Uses the same two stages as the running system. Prints a table; writes metrics.json, a CSV of the running metric
    and a plot. Two runs with one seed give the same metrics.json. With --protocol, the published protocol of that name
    over its own data: the same models, and the figures of others beside theirs.
    """
    from commands.errors import CommandError, told_plainly
    from commands.settings import load_settings
    from commands.skip_cluster import SKIP_CLUSTER
    from models.registry import MODELS
    from stream.evaluate import run_evaluation
    from stream.guard import ModelHeld
    from stream.protocols.evaluate import run_protocol
    from stream.protocols.registry import PROTOCOLS
    from stream.readers import DataError

    settings = load_settings(data=data, seed=seed)
    names = tuple(filter(None, models.split(",")))
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        raise CommandError(f"--models {unknown[0]!r}: unknown model; the models are {', '.join(sorted(MODELS))}")
    protocols = {**PROTOCOLS, "skip-cluster": SKIP_CLUSTER}  # which needs the simulated world
    if protocol and protocol not in protocols:
        raise CommandError(f"--protocol {protocol!r}: unknown protocol; there are {', '.join(sorted(protocols))}")
    if bool(name) == bool(protocol):
        raise CommandError("name a data set, or a --protocol, which has data of its own")
    with told_plainly(DataError, ModelHeld):
        if protocol:
            chosen = tuple(range(settings.seed, settings.seed + seeds))
            run_protocol(protocol, names, settings.data, out, chosen, protocols)
        else:
            run_evaluation(name, names or tuple(_MODELS.split(",")), settings.data, out, limit, settings.seed)
