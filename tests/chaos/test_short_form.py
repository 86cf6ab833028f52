# The short form of benchmarks/chaos.py: 30 kills of stages and of writers of the log, at random instants under load.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.chaos.batch import STAGES, WRITERS, run_batch


@pytest.mark.parametrize(("targets", "num_kills"), [(STAGES, 20), (WRITERS, 10)], ids=["stages", "writers"])
def test_after_kills_at_random_instants_all_is_as_if_there_had_been_none(
    tmp_path: Path, targets: tuple[str, ...], num_kills: int
) -> None:
    outcome = run_batch(tmp_path, np.random.default_rng(7), num_kills, targets)
    assert outcome.findings == []
    assert outcome.events > 200  # or there was no load
