# Options that several commands share, so that they read alike everywhere.
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Home = Annotated[
    Path | None,
    typer.Option(help="Directory that holds all that survives: event log and stores. (default: ./runnel-home)"),
]
Host = Annotated[str | None, typer.Option(help="Address of the HTTP API. (default: 127.0.0.1)")]
Port = Annotated[int | None, typer.Option(help="Port of the HTTP API. (default: 8000)")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random. (default: 0)")]
Kafka = Annotated[
    str | None,
    typer.Option("--kafka", metavar="HOST:PORT", help="Kafka that events go through. (default: the home's own log)"),
]
Deltas = Annotated[
    Literal["topics", "home"] | None,
    typer.Option(help="With Kafka, whence both stages' deltas come: from their topics, or from the home's own stores."),
]
Number = Annotated[int | None, typer.Option(min=0, help="Which of the folds this is, from 0 on. (default: 0)")]
Folds = Annotated[int | None, typer.Option(min=1, help="How many folds share Kafka's events. (default: 1)")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line of the output.")]
Supervisor = Annotated[int, typer.Option(hidden=True, help="Pid of the `runnel up` that started this process.")]
