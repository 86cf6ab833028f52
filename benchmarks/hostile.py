# Hostile input in its long form: a million broken inputs to the whole API, over real stores, and the stages behind it.
"""python -m benchmarks.hostile --inputs 1000000

One input in five is a call of its own (a broken body, path, query or header to any call); the others are events, 40 to
a call, of which each gets its own verdict. After every round both stages fold and learn whatever was accepted. Counted:
answers of 500 and above, answers that are no problem document or name no field, calls over a second of CPU, events that
the API accepts and the fold stage rejects, and how memory grows after the first quarter. `--seed` repeats a run;
`--start` goes on where another one stopped.

Inputs bred from the OpenAPI document (Schemathesis) and bytes for the decoder (hypothesis) come on top, so many times
those of `make test`:

    HOSTILE_TIMES=100 pytest --timeout=0 tests/serving/test_hostile.py -k "openapi or decoder"

What it found when it was new, each now a test: a query string that is no UTF-8, a request-id header that is no UTF-8
(Ray reads it), a user id of 257 to 1,024 bytes in a recommendation, an item with an integer feature beyond 64 bits (it
was accepted, and stopped the fold stage for good), an item that is cut within a character, one NaN that made a whole
call of good events be refused.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path
from time import process_time
from typing import Annotated

import psutil
import typer
from rich.progress import track

from benchmarks.hostile_inputs import Call, ask, fault_of, hostile_calls, hostile_events
from benchmarks.report import conditions, report
from serving.app import build_app
from tests.serving.helpers import Loop, open_loop, view

ROUND = 10_000  # inputs between two turns of the stages
EVENTS_A_CALL = 40
SLOW_SECONDS = 1.0


def main(
    inputs: int = 1_000_000,
    seed: int = 0,
    start: int = 0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Send `inputs` broken inputs, beginning with the one numbered `start`."""
    counts: Counter[str] = Counter()
    memory: list[int] = []
    rounds = range(start // ROUND, -(-(start + inputs) // ROUND))
    with tempfile.TemporaryDirectory() as home, open_loop(Path(home)) as loop:
        loop.send(*(view(f"u{number}", f"i{number % 7}", at=number) for number in range(50)))
        loop.settle()
        for number in track(rounds, "rounds of 10,000 inputs"):
            asyncio.run(_play(loop, seed + number, counts))
            counts["accepted, then rejected by the fold"] += _fold(loop)
            memory.append(psutil.Process().memory_info().rss)
    quarter = memory[len(memory) // 4]
    results = {
        "inputs": {"count": len(rounds) * ROUND},
        **{name: {"count": counts[name]} for name in sorted(counts)},
        "memory, MiB": {"count": memory[-1] >> 20, "after a quarter": quarter >> 20},
    }
    limit = {"answers 5xx": 0, "faults": 0, "slow": 0, "accepted, then rejected by the fold": 0}
    report("hostile", conditions(seed=seed, start=start, events_a_call=EVENTS_A_CALL), results, limit, json_file)
    if any(name.startswith(("fault", "slow", "accepted,")) and count for name, count in counts.items()):
        raise typer.Exit(1)


async def _play(loop: Loop, seed: int, counts: Counter[str]) -> None:
    app = build_app(loop.service)
    num_calls = ROUND // 5
    calls = [
        *islice(hostile_calls(seed), num_calls),
        *islice(hostile_events(seed, EVENTS_A_CALL), (ROUND - num_calls) // EVENTS_A_CALL),
    ]
    for call in calls:
        begin = process_time()
        answer = await ask(app, call)
        counts["slow"] += process_time() - begin > SLOW_SECONDS
        counts[f"answers {answer.status // 100}xx"] += 1
        if fault := fault_of(call, answer):
            counts[f"fault: {fault}"] += 1
            print(f"{fault}: {_shown(call)}")


def _fold(loop: Loop) -> int:
    rejected = 0
    while (result := loop.fold.step()).num_messages:
        rejected += result.num_rejected
    loop.settle()
    return rejected


def _shown(call: Call) -> str:
    return f"{call.method} {call.path[:80]} {call.query!r} {call.headers!r} {call.body[:400]!r}"


if __name__ == "__main__":
    typer.run(main)
