# Settings of every test run: one thread a process for arithmetic, no deadlines that depend on the machine's load.
from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.brokers import Cluster

# Before numpy and torch are imported, and inherited by the processes that tests start.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

# How long an example takes says what else the machine does; a test must not fail of that.
settings.register_profile("runnel", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("runnel")


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads change often, so that a torn read is met soon."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One real Kafka of one node for all tests that harm it not; each takes topics of its own (`broker.config()`)."""
    cluster = Cluster(tmp_path_factory.mktemp("kafka"))
    yield cluster
    cluster.close()
