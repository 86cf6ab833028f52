# runnel evaluate: how well the models learn from a data set, tested on every event before it is learned.
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commands.options import Seed

_MODELS = "popularity,recent,covisitation,transformer,blend"
_DATA = typer.Option(help="Directory of the data sets, or one such file. (default: $RUNNEL_DATA or ../shared/data)")


def evaluate(
    name: Annotated[str, typer.Argument(help="Data set: globo, diginetica, ml-100k or events (our own JSON lines).")],
    models: Annotated[str, typer.Option(help="Models to test, separated by commas.")] = _MODELS,
    out: Annotated[Path, typer.Option(help="Directory for metrics.json, the CSV and the plot.")] = Path("out/evaluate"),
    data: Annotated[Path | None, _DATA] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many events.")] = None,
    seed: Seed = None,
) -> None:
    """Evaluate models over a data set as a stream: each event is predicted first, then learned.

    Uses the same two stages as the running system. Prints a table; writes metrics.json, a CSV of the running metric
    and a plot. Two runs with one seed give the same metrics.json.
    """
    from commands.errors import CommandError, told_plainly
    from commands.settings import load_settings
    from models.registry import MODELS
    from stream.evaluate import run_evaluation
    from stream.guard import ModelHeld
    from stream.readers import DataError

    settings = load_settings(data=data, seed=seed)
    names = tuple(models.split(","))
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        raise CommandError(f"--models {unknown[0]!r}: unknown model; the models are {', '.join(sorted(MODELS))}")
    with told_plainly(DataError, ModelHeld):
        run_evaluation(name, names, settings.data, out, limit, settings.seed)
