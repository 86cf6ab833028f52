# Settings of the follower, apart from it: whoever reads settings does without Kafka's client.
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FollowRunConfig:
    """Cadence of the follower."""

    poll_seconds: float = 0.1  # how long quiet topics are waited for before looking whether to stop
    upkeep_seconds: float = 5.0
    delta_retention_ms: int = 600_000  # in the node's store; its servers read them as they come
    map_size_bytes: int = 64 << 30  # address space, not disk: what the store may grow to
