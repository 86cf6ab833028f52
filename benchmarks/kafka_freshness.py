# How soon does a list know of an event that goes through Kafka? The same probes as without it, in the same run.
"""python -m benchmarks.kafka_freshness --json kafka_freshness.json

`through Kafka`: a real broker of one node, and `runnel fold`, `learn`, `follow` and `serve` as processes of their own
that meet in its topics alone, shippers beside the stages: HTTP → Kafka → fold → deltas → node → recommendation.
`without`: `runnel up` with its own log. Both at 1,000 events/s of Globo's clicks, ten a call, on this one machine; what
is measured stands in `benchmarks.freshness`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.brokers import local_kafka
from benchmarks.freshness import figures, measure_rate
from benchmarks.load import DATA
from benchmarks.report import conditions, report
from benchmarks.running import Running, wait_until_ready
from commands.settings import PREFIX
from serving.ports import free_ports

RATE = 1000
LIMIT = {"session p99 ms": 400, "model p99 ms": 1500}
_ROOT = Path(__file__).resolve().parents[1]
_READY_SECONDS = 120.0


@contextmanager
def running_on_kafka() -> Iterator[Running]:
    """One process each on a broker of their own, ready."""
    with tempfile.TemporaryDirectory(prefix="runnel-bench-", ignore_cleanup_errors=True) as path, ExitStack() as stack:
        folder, port = Path(path), free_ports(1)[0]
        config = stack.enter_context(local_kafka(folder / "kafka"))("runnel")
        topics = {f"{PREFIX}KAFKA__TOPICS__{name.upper()}": topic for name, topic in vars(config.topics).items()}
        homes = {"fold": "stages", "learn": "stages", "follow": "node", "serve": "node"}
        for name, home in homes.items():
            more = ["--port", str(port)] if name == "serve" else []
            options = ["--home", str(folder / home), "--kafka", config.servers, *more]
            process = stack.enter_context(_process(name, options, os.environ | topics, folder / f"{name}.log"))
        wait_until_ready(process, port, _READY_SECONDS)
        yield Running(folder / "stages", port)


@contextmanager
def _process(name: str, options: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        command = [sys.executable, str(_ROOT / "runnel.py"), name, *options]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env, start_new_session=True)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def main(
    runs: int = 5,
    seconds: float = 15.0,
    data: Annotated[Path, typer.Option(envvar="RUNNEL_DATA")] = DATA,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """`runs` runs of `seconds` each way."""
    columns = {
        "through Kafka": figures(measure_rate(RATE, runs, seconds, data, running_on_kafka)),
        "without": figures(measure_rate(RATE, runs, seconds, data)),
    }
    names = next(iter(columns.values()))
    results = {name: {way: column[name] for way, column in columns.items()} for name in names}
    report("kafka_freshness", conditions(seconds=seconds, rate=RATE, stream="globo"), results, LIMIT, json_file)


if __name__ == "__main__":
    typer.run(main)
