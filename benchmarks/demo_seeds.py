# Does the demo's learned group beat its control group, seed by seed? Runs `runnel up --demo` again and again.
"""python -m benchmarks.demo_seeds --seeds 5 --duration 120s --json demo.json

Each run starts from an empty home: the figures are those of its JSON summary. The last run serves without learning
(`--freeze`): there the intervals of both groups have to overlap.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from benchmarks.report import Row, conditions, report

PORT = 8180
FREEZE = "freeze"


def run_demo(seed: int, duration: str, freeze: bool) -> dict[str, dict[str, dict[str, float]]]:
    """The JSON summary of one demo; raises CalledProcessError where it fails."""
    with tempfile.TemporaryDirectory(prefix="runnel-demo-") as home:
        command = [sys.executable, "-m", "runnel", "up", "--demo", "--home", home, "--port", str(PORT)]
        command += ["--for", duration, "--seed", str(seed), "--json", *(["--freeze"] if freeze else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    summary: dict[str, dict[str, dict[str, float]]] = json.loads(done.stdout.strip().splitlines()[-1])
    return summary


def figures(summary: dict[str, dict[str, dict[str, float]]]) -> Row:
    """One row: view rates, how far learning gets from control to oracle, whether the intervals are apart."""
    rate, latency = summary["view_rate"], summary["event_to_recommendation_ms"]
    learned, control, oracle = rate["learned"], rate["control"], rate["oracle"]
    way = (learned["mean"] - control["mean"]) / (oracle["mean"] - control["mean"])
    return {
        "events": str(summary["events"]),
        "versions": str(summary["versions"]),
        "errors": str(summary["errors"]),
        "p50 ms": str(latency["p50"]),
        "p99 ms": str(latency["p99"]),
        "random": rate["random"]["mean"],
        "control": f"{control['low']:.3f}..{control['high']:.3f}",
        "learned": f"{learned['low']:.3f}..{learned['high']:.3f}",
        "oracle": oracle["mean"],
        "way to oracle": way,
        "apart": learned["low"] > control["high"],
    }


def main(
    seeds: int = 5, duration: str = "120s", json_file: Annotated[Path | None, typer.Option("--json")] = None
) -> None:
    """Run `seeds` demos and one frozen."""
    runs = [(str(seed), seed, False) for seed in range(seeds)] + [(FREEZE, 0, True)]
    results = {name: figures(run_demo(seed, duration, freeze)) for name, seed, freeze in track(runs, "demos")}
    limit: Row = {"errors": 0, "p99 ms": 1000, "way to oracle": 0.3, "apart": "True, and False when frozen"}
    report("demo_seeds", conditions(duration=duration), results, limit, json_file)


if __name__ == "__main__":
    typer.run(main)
