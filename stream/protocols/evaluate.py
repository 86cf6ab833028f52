# Published protocols run: some seeds of each, then the report.
from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from stream.protocols.protocol import Protocol, Trial
from stream.protocols.registry import PROTOCOLS
from stream.protocols.report import Report, show, write


def run_protocol(
    name: str,
    models: tuple[str, ...],
    data: Path,
    out: Path,
    seeds: tuple[int, ...],
    protocols: Mapping[str, Protocol] = PROTOCOLS,
) -> None:
    """Run the protocol `name` with each seed, print the table, and write the report below `out`.

    No models: those the protocol names. Raises DataError for data that is absent or wrong, ValueError for an unknown
    model.
    """
    started, protocol, console = time.monotonic(), protocols[name], Console()
    outcomes = []
    for seed in seeds:
        console.print(f"{protocol.name}, seed {seed}")
        outcomes.append(protocol.run(Trial(data, models or protocol.models, seed, console.print)))
    report = Report(protocol, seeds, outcomes)
    write(report, out)
    show(report, time.monotonic() - started, console)
    console.print(f"wrote {out}/metrics.json, seeds.csv and comparison.png")
