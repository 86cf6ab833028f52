# Does the next list know of a skip? 200 moments over HTTP: list, skip the first item, list again within a second.
"""Run against a system that is up and has learned something (`runnel up --demo`, or `runnel replay`):

    python -m benchmarks.skip_moments --url http://127.0.0.1:8000 --moments 200 --json moments.json

Replay no faster than the learner follows (`runnel replay globo --limit 60000 --speed 300`): of one that has learned a
sample, ranks say little, for most of the nearest stand beyond the long list.

Each moment has a pair of twins: two new users who view the same items at the same times. One skips the first item of
its list, the other does not; both ask again at once. The twin is "the same moment without the skip". Figures: the item
is gone from the list, `session_offset` has moved on, and the mean rank of the skipped item's 10 nearest (as
/v1/similar-items tells them) in a long list is worse than the twin's. Ranks outside the list count as its length + 1.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

import httpx
import numpy as np
import typer
from rich.progress import track

from benchmarks.report import conditions, report

NEAREST = 10  # neighbours of the skipped item whose rank is watched
LONG_LIST = 500  # items asked for when ranks are compared
DEADLINE_SECONDS = 1.0  # the second list has to know by then


class Slate(TypedDict):
    """The part of a recommendation response that is read here."""

    session_offset: int
    model_version: int
    items: list[dict[str, str | float]]


@dataclass(frozen=True)
class Moment:
    """What one skip changed."""

    is_gone: bool
    has_moved_on: bool
    rank_with_skip: float
    rank_without_skip: float
    seconds: float  # from the POST of the skip to the list that covers it


def recommend(client: httpx.Client, user: str, n: int) -> Slate:
    """One list of `n` items for `user`."""
    response = client.post("/v1/recommendations", json={"user_id": user, "n": n})
    response.raise_for_status()
    slate: Slate = response.json()
    return slate


def post(client: httpx.Client, events: list[dict[str, str | int]]) -> int:
    """Send events; the log offset after which they are folded."""
    response = client.post("/v1/events", json={"events": events})
    response.raise_for_status()
    answer = response.json()
    if answer["accepted"] != len(events):
        raise RuntimeError(f"events refused: {answer['results']}")
    return int(answer["offset"])


def item_ids(slate: Slate) -> list[str]:
    return [str(item["item_id"]) for item in slate["items"]]


def signal(kind: str, user: str, item: str, dwell_ms: int) -> dict[str, str | int]:
    """One event of now."""
    return {
        "event_id": uuid.uuid4().hex,
        "type": kind,
        "user_id": user,
        "item_id": item,
        "timestamp": time.time_ns() // 1_000_000,
        "dwell_ms": dwell_ms,
    }


def covering(client: httpx.Client, user: str, offset: int, n: int) -> Slate:
    """The first list whose session offset covers `offset`; raises when none does within the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        slate = recommend(client, user, n)
        if slate["session_offset"] >= offset:
            return slate
        if time.monotonic() > deadline:
            raise TimeoutError(f"no list covered offset {offset} within {DEADLINE_SECONDS} s")


def mean_rank(slate: Slate, items: list[str]) -> float:
    """Mean rank, from 1, of `items` in a list; absent ones count as the list's length + 1."""
    ranks = {item: rank for rank, item in enumerate(item_ids(slate), 1)}
    return float(np.mean([ranks.get(item, len(ranks) + 1) for item in items]))


def moment(client: httpx.Client, number: int, views: int) -> Moment:
    """One pair of twins: both view `views` items of a list, one then skips the first of the next."""
    skipper, twin = (f"moment-{uuid.uuid4().hex[:8]}-{number}-{role}" for role in ("skips", "twin"))
    viewed = item_ids(recommend(client, skipper, 20))[number % 10 :][:views]
    post(client, [signal("view", user, item, 9000) for user in (skipper, twin) for item in viewed])
    offset = post(client, [signal("view", user, viewed[-1], 9000) for user in (skipper, twin)])
    before = covering(client, skipper, offset, LONG_LIST)
    skipped = item_ids(before)[0]
    similar = client.post("/v1/similar-items", json={"item_id": skipped, "n": NEAREST})
    similar.raise_for_status()
    nearest = [str(item["item_id"]) for item in similar.json()["items"]]
    started = time.perf_counter()
    offset = post(client, [signal("skip", skipper, skipped, 300)])
    after = covering(client, skipper, offset, LONG_LIST)
    seconds = time.perf_counter() - started
    without = recommend(client, twin, LONG_LIST)
    return Moment(
        is_gone=skipped not in item_ids(after),
        has_moved_on=after["session_offset"] > before["session_offset"],
        rank_with_skip=mean_rank(after, nearest),
        rank_without_skip=mean_rank(without, nearest),
        seconds=seconds,
    )


def main(
    url: str = "http://127.0.0.1:8000",
    moments: int = 200,
    views: int = 4,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure `moments` skips against the system at `url`."""
    with httpx.Client(base_url=url, timeout=10) as client:
        seen = [moment(client, number, views) for number in track(range(moments), "moments")]
    with_skip, without = (np.array([getattr(m, f"rank_{k}_skip") for m in seen]) for k in ("with", "without"))
    results = {
        "skip": {
            "moments": len(seen),
            "item gone": float(np.mean([m.is_gone for m in seen])),
            "offset moved on": float(np.mean([m.has_moved_on for m in seen])),
            "nearest fell": float(np.mean(with_skip > without)),
            "mean rank without": float(without.mean()),
            "mean rank with": float(with_skip.mean()),
            "p50 ms": 1000 * float(np.percentile([m.seconds for m in seen], 50)),
            "p99 ms": 1000 * float(np.percentile([m.seconds for m in seen], 99)),
        }
    }
    limit = {"item gone": 1.0, "offset moved on": 1.0, "nearest fell": 0.8, "within seconds": DEADLINE_SECONDS}
    report("skip_moments", conditions(views=views, long_list=LONG_LIST), results, limit, json_file)


if __name__ == "__main__":
    typer.run(main)
