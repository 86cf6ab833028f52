# What every benchmark prints and writes: a table for a person, one JSON for a machine, the conditions in both.
from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import xxhash
from rich.console import Console
from rich.table import Table

from commands.settings import load_settings
from stream.fingerprint import fingerprint

Figure = float | int | str | bool | None
Row = Mapping[str, Figure]


def conditions(**extra: Figure) -> dict[str, Figure]:
    """Where and with what a figure was measured; `extra` is the benchmark's own."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "ray": version("ray"),
        "lmdb": version("lmdb"),
        "commit": commit.stdout.strip() or None,
        "configuration": fingerprint(),
        "settings": settings(),
        **extra,
    }


def settings() -> str:
    """Of all settings as a system started here would have them, less where it lies and listens, eight hex digits."""
    found = load_settings().model_dump_json(exclude={"home", "data", "host", "port"})
    return xxhash.xxh32_hexdigest(found.encode())


def report(
    benchmark: str,
    conditions: Mapping[str, Figure],
    results: Mapping[str, Row],
    limit: Mapping[str, Figure],
    json_file: Path | None,
) -> None:
    """Print `results` (row name → figures) as a table, and write the contract's JSON when a file is given."""
    console = Console()
    for title, columns, names in _tables(benchmark, results):
        table = Table("", *columns, title=title)
        for name in names:
            table.add_row(name, *(_shown(results[name].get(column)) for column in columns))
        console.print(table)
    console.print(", ".join(f"{name} {_shown(value)}" for name, value in conditions.items()))
    console.print("limit: " + ", ".join(f"{name} {_shown(value)}" for name, value in limit.items()))
    if json_file is not None:
        document = {"benchmark": benchmark, "conditions": conditions, "results": results, "limit": limit}
        json_file.write_text(json.dumps(document, indent=2) + "\n")


def _tables(benchmark: str, results: Mapping[str, Row]) -> Iterator[tuple[str | None, tuple[str, ...], list[str]]]:
    """Title, columns and rows: a table for all rows of the same figures, in the order of their first row."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, row in results.items():
        groups.setdefault(tuple(row), []).append(name)
    title: str | None = benchmark
    for columns, names in groups.items():
        yield title, columns, names
        title = None


def _shown(figure: Figure) -> str:
    return f"{figure:,.4g}" if isinstance(figure, float) else "" if figure is None else str(figure)
