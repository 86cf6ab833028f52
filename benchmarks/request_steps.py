# What the steps of the request path cost: the service of a home in this process, without HTTP.
"""As a process: `OMP_NUM_THREADS=1 python -m benchmarks.request_steps HOME ITEMS USERS` prints one JSON line; run it
under a profiler to see more.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import typer

from benchmarks.made_home import Clicks
from benchmarks.report import Figure
from serving.schemas import RecommendationRequest
from serving.service import ServiceConfig, open_service

N = 20  # places of a list
READY_SECONDS = 120.0


def main(home: Path, items: int, users: int, requests: int = 300) -> None:
    """Mean milliseconds of each step over requests of the service in this process, and percentiles of the whole."""
    clicks = Clicks(items, users)
    service = open_service(ServiceConfig(home))
    deadline = time.monotonic() + READY_SECONDS
    while not service.versions.is_ready:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no version was loaded within {READY_SECONDS} s")
        time.sleep(0.01)
    spent = []
    for _ in range(requests):
        started = time.perf_counter()
        service.recommend(RecommendationRequest(clicks.user(), N), time.time_ns() // 1_000_000)
        spent.append(time.perf_counter() - started)
    figures: dict[str, Figure] = {"p50": _ms(np.percentile(spent, 50)), "p99": _ms(np.percentile(spent, 99))}
    for metric in service.metrics.step_seconds.collect():
        for sample in metric.samples:
            if sample.name.endswith("_sum"):
                figures[sample.labels["step"]] = _ms(sample.value / requests)
    service.close()
    print(json.dumps(figures))


def _ms(seconds: float | np.floating) -> float:
    return round(1000 * float(seconds), 3)


if __name__ == "__main__":
    typer.run(main)
