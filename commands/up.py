# runnel up: the whole system on this machine.
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commands.durations import parse_duration
from commands.options import Home, Host, Json, Port, Seed

_FOR = typer.Option(
    "--for",
    parser=parse_duration,
    metavar="TIME",
    help="Stop by itself after 90s, 5m or 1h (counted from being ready).",
)
_KAFKA = typer.Option(
    metavar="HOST:PORT",
    help="Kafka that events go through; 'local' brings one along. (default: the home's own event log)",
)
_FROM = typer.Option(help="Begin a home without stores from the snapshots in this directory.")


def up(
    home: Home = None,
    host: Host = None,
    port: Port = None,
    demo: Annotated[bool, typer.Option("--demo", help="Add simulated users and a live panel.")] = False,
    freeze: Annotated[bool, typer.Option("--freeze", help="Serve without learning.")] = False,
    duration: Annotated[float | None, _FOR] = None,
    from_snapshot: Annotated[Path | None, _FROM] = None,
    kafka: Annotated[str | None, _KAFKA] = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Run everything on this machine: event log, both stages, the HTTP API.

    Events go to POST /v1/events, lists come from POST /v1/recommendations; http://HOST:PORT/docs shows all calls.
    A process that dies is started again. Ctrl-C stops everything and keeps all that was acknowledged.
    """
    from commands.run_up import UpOptions, run_up

    run_up(UpOptions(home, host, port, demo, freeze, duration, from_snapshot, kafka, seed, as_json))
