# What runs of a published protocol leave behind: mean, spread and error of every figure, beside the figures of others.
from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from stream.fingerprint import fingerprint
from stream.protocols.protocol import Outcome, Protocol


class Figure(NamedTuple):
    """One metric of one model over all seeds."""

    mean: float
    spread: float  # largest less smallest over the seeds
    error: float  # standard error of the mean over the tests, each the mean of its seeds where these have the same


@dataclass(frozen=True)
class Report:
    """The outcomes of a protocol, one a seed."""

    protocol: Protocol
    seeds: tuple[int, ...]
    outcomes: Sequence[Outcome]

    @cached_property
    def configuration(self) -> str:
        """The fingerprint of all defaults."""
        return fingerprint()

    @property
    def num_tests(self) -> int:
        """Tests of one run."""
        return len(next(iter(next(iter(self.outcomes[0].models.values())).values())))

    def figures(self) -> dict[str, dict[str, Figure]]:
        """Model → metric → figure."""
        first = self.outcomes[0].models
        return {name: {metric: self._figure(name, metric) for metric in self.protocol.metrics} for name in first}

    def _figure(self, model: str, metric: str) -> Figure:
        runs = [outcome.models[model][metric] for outcome in self.outcomes]  # a seed: [tests]
        means = np.array([run.mean() for run in runs])
        if len({len(run) for run in runs}) == 1:
            error = _error(np.mean(runs, axis=0))
        else:  # the seeds' tests are not the same ones
            error = sum(_error(run) ** 2 for run in runs) ** 0.5 / len(runs)
        return Figure(float(means.mean()), float(np.ptp(means)), error)

    def document(self) -> dict[str, object]:
        """The metrics.json document; the same data, settings and seeds give the same bytes."""
        figures = self.figures()
        return {
            "stream": self.protocol.stream,
            "protocol": self.protocol.name,
            "events": self.outcomes[0].num_events,
            "tests": self.num_tests,
            "seconds": 0.0,  # of event time: such data has no clock
            "config": {"configuration": self.configuration, "seeds": list(self.seeds), **self.outcomes[0].config},
            "models": {name: {key: figure.mean for key, figure in of.items()} for name, of in figures.items()},
            "spread": {name: {key: figure.spread for key, figure in of.items()} for name, of in figures.items()},
            "standard_error": {name: {key: figure.error for key, figure in of.items()} for name, of in figures.items()},
            "references": {known.name: dict(known.metrics) for known in self.protocol.references},
        }


def _error(values: NDArray[np.float64]) -> float:
    """Standard error of the mean; 0 of a single one."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def write(report: Report, out: Path) -> None:
    """Write metrics.json, seeds.csv and comparison.png below `out`, which is made when absent."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(report.document(), indent=2, sort_keys=True) + "\n")
    with (out / "seeds.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "model", *report.protocol.metrics])
        for seed, outcome in zip(report.seeds, report.outcomes, strict=True):
            for name, tests in outcome.models.items():
                writer.writerow([seed, name, *(f"{tests[metric].mean():.6f}" for metric in report.protocol.metrics)])
    _plot(report, out / "comparison.png")


def _plot(report: Report, file: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    metric, figures = report.protocol.metrics[0], report.figures()
    known = [reference for reference in report.protocol.references if metric in reference.metrics]
    figure, axes = pyplot.subplots(figsize=(9, 0.5 * (len(figures) + len(known)) + 1))
    own = [of[metric] for of in figures.values()]
    axes.barh(list(figures), [found.mean for found in own], xerr=[1.96 * found.error for found in own])
    axes.barh([f"({reference.name})" for reference in known], [found.metrics[metric] for found in known], color="0.7")
    axes.set(
        xlabel=f"{metric}, 95 % interval over the tests", title=f"{report.protocol.name}, {report.protocol.stream}"
    )
    axes.invert_yaxis()
    figure.savefig(file, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def show(report: Report, elapsed_seconds: float, console: Console) -> None:
    """Print the table: our figures, then published ones and floors."""
    protocol = report.protocol
    title = f"{protocol.name}, {protocol.stream}: {report.num_tests:,} tests, {len(report.seeds)} seeds"
    told = f"configuration {report.configuration}; {elapsed_seconds:,.0f} s of this machine"
    caption = f"mean ± spread over seeds (standard error over tests); {told}"
    table = Table("model", *protocol.metrics, "source", title=title, caption=caption)
    for name, of in report.figures().items():
        cells = (f"{figure.mean:.4f} ± {figure.spread:.4f} ({figure.error:.4f})" for figure in of.values())
        table.add_row(name, *cells, "ours", style="bold")
    for known in protocol.references:
        table.add_row(known.name, *(_cell(known.metrics, metric) for metric in protocol.metrics), known.source)
    console.print(table)


def _cell(metrics: Mapping[str, float], metric: str) -> str:
    return f"{metrics[metric]:.4f}" if metric in metrics else ""
