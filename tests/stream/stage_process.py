# A stage as a process, for tests that stop and kill it: -m tests.stream.stage_process fold|learn HOME [eager|hasty]
from __future__ import annotations

import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

from models.base import Model
from models.covisitation import Covisitation
from models.popularity import Popularity
from stream.run import FoldRunConfig, run_fold
from stream.run_learn import LearnRunConfig, learn_models


def start(stage: str, home: Path, *options: str, stderr: int | None = None) -> subprocess.Popen[bytes]:
    """Run the stage over a home; `eager` commits as often as it can, `hasty` trims all it may too.

    The child inherits a blocked SIGTERM and lets it in once it can answer it: a stage that is told to stop while it
    still imports stops in good order too.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        command = [sys.executable, "-m", "tests.stream.stage_process", stage, str(home), *options]
        return subprocess.Popen(command, stderr=stderr)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Tell it to stop, and see that it does so in good order."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def build_counters() -> dict[str, Model]:
    """The models that count: what a crash may not change by a byte."""
    return {"popularity": Popularity(), "covisitation": Covisitation()}


def main(stage: str, home: Path, haste: str = "") -> None:
    """Run until SIGTERM; the learner has counters alone, so that it starts without torch."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    fold, learn = FoldRunConfig(), LearnRunConfig(commit_seconds=0.02, event_retention_ms=10**12)
    if haste == "eager":
        fold, learn = replace(fold, commit_seconds=0.0), replace(learn, commit_seconds=0.002)
    if haste == "hasty":
        fold = FoldRunConfig(commit_seconds=0.0, upkeep_seconds=0.0, delta_retention_ms=0)
        learn = LearnRunConfig(commit_seconds=0.0, upkeep_seconds=0.0, delta_retention_ms=0, event_retention_ms=0)
    if stage == "fold":
        run_fold(home, stop, fold)
    else:
        learn_models(home, stop, lambda _: build_counters(), 0, learn)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
