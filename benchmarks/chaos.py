# A thousand kills: is anything lost, twice or different after SIGKILL at random instants? A resumable campaign.
"""python -m benchmarks.chaos --kills 1000 --resume chaos.json [--for 200] [--kinds stage,writer] [--json FILE]

Of the kills 70 % hit a single stage (fold or learn, with counters alone), 15 % a writer of the event log, 10 % a
replica of a whole `runnel up` under HTTP load, 5 % all of its processes at once; some while the killed one still
starts, many within a millisecond after a commit, the rest wherever they hit. Each batch has a home of its own and ends
with the comparison (tests/chaos): every acknowledged event is there, none twice, offsets have no hole; records,
catalogue, dictionary, counters, totals, dead letters and offsets are the bytes of a run without kills; LMDB finds each
file sound.

With `--kafka` nine in ten kills hit fold, learner, follower, the stages' shippers, a writer (what a replica runs) and
the broker itself, each as often, on a real Kafka of one node; then the node that follows must hold what both stages
hold. The tenth hits the HTTP replicas of a `runnel up` on a Kafka, under HTTP load.

The state file holds the seed and what is done; a run with the same file goes on from there, and `--for` ends it after
the batch that passes so many seconds. A home with a finding is kept, and its path printed; then the exit code is 1.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from rich.console import Console

from benchmarks.report import Row, conditions, report
from tests.chaos.batch import STAGES, WRITERS, Outcome, run_batch
from tests.chaos.kafka_batch import TARGETS, run_kafka_batch
from tests.chaos.kafka_replicas import run_replica_batch
from tests.chaos.system_batch import run_system_batch

SHARES = {"stage": 0.70, "writer": 0.15, "replica": 0.10, "tree": 0.05}
KAFKA_SHARES = {"kafka": 0.90, "kafka replica": 0.10}
# Kills between two comparisons
BATCH = {"stage": 50, "writer": 50, "replica": 20, "tree": 5, "kafka": 28, "kafka replica": 20}


class Tally(msgspec.Struct):
    """What was done of one kind."""

    kills: int = 0
    comparisons: int = 0
    values: int = 0  # in the logs that were compared
    seconds: float = 0.0
    findings: list[str] = msgspec.field(default_factory=list)


class Campaign(msgspec.Struct):
    """The state file."""

    seed: int
    done: dict[str, Tally] = msgspec.field(default_factory=lambda: {kind: Tally() for kind in BATCH})

    @staticmethod
    def load(file: Path, seed: int) -> Campaign:
        """What the file holds, or a new one."""
        return msgspec.json.decode(file.read_bytes(), type=Campaign) if file.exists() else Campaign(seed)

    def save(self, file: Path) -> None:
        """Write the file at once or not at all."""
        draft = file.with_suffix(".new")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(self)))
        draft.replace(file)


def run(kind: str, folder: Path, num_kills: int, rng: np.random.Generator) -> Outcome:
    """One batch. AssertionError where it does not come to its end."""
    if kind == "kafka":
        return run_kafka_batch(folder, rng, np.resize(TARGETS, num_kills).tolist())
    if kind == "kafka replica":
        return run_replica_batch(folder, rng, num_kills)
    if kind in ("stage", "writer"):
        return run_batch(folder, rng, num_kills, STAGES if kind == "stage" else WRITERS)
    return run_system_batch(folder, rng, num_kills, "replica" if kind == "replica" else "tree")


def step(campaign: Campaign, kind: str, num_kills: int, console: Console) -> None:
    """One batch, counted. A batch that cannot be finished is a finding too."""
    tally = campaign.done[kind]
    rng = np.random.default_rng([campaign.seed, *kind.encode(), tally.kills])
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"runnel-chaos-{kind}-"))
    try:
        outcome = run(kind, folder, num_kills, rng)
    except AssertionError as error:
        outcome = Outcome(num_kills, 0, [f"the batch did not come to its end: {error}"])
    tally.kills += outcome.kills
    tally.comparisons += 1
    tally.values += outcome.events
    tally.seconds += time.monotonic() - began
    tally.findings += outcome.findings
    console.print(f"{kind}: {tally.kills} kills, {len(outcome.findings)} findings in this batch")
    if outcome.findings:
        console.print(f"kept: {folder}", *outcome.findings[:10], sep="\n  ")
    else:
        shutil.rmtree(folder)


def main(
    kills: int = 1000,
    resume: Path = Path("chaos.json"),
    seconds: Annotated[float, typer.Option("--for", help="stop after the batch that passes this time")] = float("inf"),
    kinds: str = ",".join(SHARES),
    kafka: Annotated[bool, typer.Option("--kafka", help="kill what works on a real Kafka, all of these kills")] = False,
    seed: int = 0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Go on with the campaign in the state file `resume` until `kills` are done."""
    campaign, console, began = Campaign.load(resume, seed), Console(stderr=True), time.monotonic()
    shares = KAFKA_SHARES if kafka else {kind: SHARES[kind] for kind in kinds.split(",")}
    wanted = {kind: round(share * kills) for kind, share in shares.items()}
    while True:
        left = {kind: count - campaign.done[kind].kills for kind, count in wanted.items()}
        kind = max(left, key=lambda each: left[each] / BATCH[each])
        if left[kind] <= 0 or time.monotonic() - began > seconds:
            break
        step(campaign, kind, min(BATCH[kind], left[kind]), console)
        campaign.save(resume)
    results: dict[str, Row] = {}
    for kind, tally in campaign.done.items():
        row = {"kills": tally.kills, "comparisons": tally.comparisons, "findings": len(tally.findings)}
        results[kind] = row | {"log values": tally.values, "seconds": tally.seconds}
    report("chaos", conditions(seed=campaign.seed), results, {"kills": kills, "findings": 0}, json_file)
    sys.exit(int(any(tally.findings for tally in campaign.done.values())))


if __name__ == "__main__":
    typer.run(main)
