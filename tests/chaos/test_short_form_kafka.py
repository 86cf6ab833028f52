# The short form of benchmarks/chaos.py --kafka: kills of all that works on a real Kafka, and the broker itself.
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.chaos.kafka_batch import SHIPPERS, STAGES, run_kafka_batch
from tests.chaos.kafka_replicas import run_replica_batch


def test_after_kills_of_everything_all_is_as_if_there_had_been_none(tmp_path: Path) -> None:
    targets = [*STAGES * 5, *SHIPPERS, "writer", "broker"]
    outcome = run_kafka_batch(tmp_path, np.random.default_rng(3), targets, aimed_share=1.0)
    assert outcome.findings == []
    assert outcome.events > 500


@pytest.mark.timeout(300)
def test_after_kills_of_http_replicas_nothing_that_was_acknowledged_is_missing_on_the_kafka(tmp_path: Path) -> None:
    assert run_replica_batch(tmp_path, np.random.default_rng(5), 3).findings == []
