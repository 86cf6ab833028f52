# What an evaluation leaves behind: metrics.json, the running metric and slices as CSV, a plot, a table on the terminal.
from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
from rich.console import Console
from rich.table import Table

METRICS = ("hr@10", "mrr@10", "hr@20", "mrr@20")


@dataclass(frozen=True)
class Point:
    """The metrics of one model over the tests since the point before."""

    events: int  # events learned so far
    tests: int  # tests so far
    model: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class SliceFigures:
    """The metrics of each model over the tests of one slice."""

    tests: int
    models: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: what was run, over what, and what came out."""

    stream: str
    protocol: str
    events: int
    tests: int
    seconds: float  # of event time, first event to last: a property of the stream, so that a repeat gives the same file
    config: Mapping[str, object]  # by model, and `configuration`, the fingerprint of all defaults
    models: Mapping[str, Mapping[str, float]]
    slices: Mapping[str, SliceFigures]

    def document(self) -> dict[str, object]:
        """The metrics.json document; the same stream, settings and seed give the same bytes."""
        return {
            "stream": self.stream,
            "protocol": self.protocol,
            "events": self.events,
            "tests": self.tests,
            "seconds": self.seconds,
            "config": dict(self.config),
            "models": {name: dict(metrics) for name, metrics in self.models.items()},
            "slices": {name: asdict(figures) for name, figures in self.slices.items()},
        }


def write(evaluation: Evaluation, points: Sequence[Point], out: Path) -> None:
    """Write metrics.json, running.csv, slices.csv and running.png below `out`, which is made when absent."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(evaluation.document(), indent=2, sort_keys=True) + "\n")
    with (out / "running.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["events", "tests", "model", *METRICS])
        for point in points:
            writer.writerow(
                [point.events, point.tests, point.model, *(f"{point.metrics[name]:.6f}" for name in METRICS)]
            )
    with (out / "slices.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slice", "tests", "model", *METRICS])
        for part, figures in evaluation.slices.items():
            for name, metrics in figures.models.items():
                writer.writerow([part, figures.tests, name, *(f"{metrics[metric]:.6f}" for metric in METRICS)])
    _plot(evaluation, points, out / "running.png")


def _plot(evaluation: Evaluation, points: Sequence[Point], file: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5))
    for name in evaluation.models:
        own = [point for point in points if point.model == name]
        axes.plot([point.events for point in own], [point.metrics["hr@10"] for point in own], label=name)
    axes.set(
        xlabel="events", ylabel="HR@10 since the point before", title=f"{evaluation.stream}, {evaluation.protocol}"
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def show(evaluation: Evaluation, elapsed_seconds: float, console: Console) -> None:
    """Print the table, with how long it took on this machine."""
    table = Table(
        "model",
        *METRICS,
        title=f"{evaluation.stream}, {evaluation.protocol}: {evaluation.tests:,} tests in {evaluation.events:,} events",
        caption=f"configuration {evaluation.config['configuration']}; {elapsed_seconds:,.0f} s of this machine",
    )
    _add_rows(table, evaluation.models)
    for part, figures in evaluation.slices.items():
        table.add_section()
        table.add_row(f"{part}: {figures.tests:,} tests", style="bold")
        _add_rows(table, figures.models)
    console.print(table)


def _add_rows(table: Table, models: Mapping[str, Mapping[str, float]]) -> None:
    for name, metrics in models.items():
        table.add_row(name, *(f"{metrics[metric]:.4f}" for metric in METRICS))
