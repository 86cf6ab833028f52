# The panel's own user: every few seconds they skip the first item of their list, and the panel shows what that changed.
from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from statistics import fmean
from time import monotonic

from commands.demo_items import item_number, title
from commands.demo_state import Spotlight
from commands.demo_users import Stage
from commands.history import look_event
from commands.visits import Look, browse

_LENGTH = 8
_EVERY = 4.0  # seconds
_MEASURE_MS = 600  # dwell time of the skip


async def keep_spotlight(stage: Stage, user: int) -> None:
    """Show list, skip, list again; then look at the second list as every user does. Until cancelled."""
    user_id, visit = f"u{user}", 0
    while True:
        session_id, left = f"{user_id}-{stage.start_ms}-{visit}", False
        stage.world.begin_visit(user, stage.rng)
        while not left:
            left = await _one_skip(stage, user, session_id)
            await asyncio.sleep(_EVERY)
        visit += 1


async def _one_skip(stage: Stage, user: int, session_id: str) -> bool:
    """Whether the user left after it."""
    user_id, client = f"u{user}", stage.client
    before = await client.recommend(user_id, _LENGTH, None)
    if before is None or not before.item_ids:
        return False
    skip = Look(item_number(before.item_ids[0]), 0, False, _MEASURE_MS, stage.now())
    event = look_event(skip, (user_id, before.item_ids[0], session_id), before.request_id, stage.start_ms)
    sent_at = monotonic()
    offsets = await client.send([{"event_id": f"{before.request_id}-0", **event}])
    found = (
        None
        if offsets is None
        else await client.recommend_covering(user_id, _LENGTH, None, offsets, sent_at, explain=True)
    )
    if found is None or not found[0].item_ids:
        return False
    after, seconds = found
    numbers = [[item_number(name) for name in slate.item_ids] for slate in (before, after)]
    titles = [[title(stage.world, item) for item in items if item >= 0] for items in numbers]
    stage.state.spotlight = Spotlight(user_id, titles[0], titles[1], 1000 * seconds, shares_of(after.reasons))
    stage.state.latencies_ms.append(1000 * seconds)
    looks, left = browse(stage.world, user, numbers[1], stage.now(), stage.rng)
    await asyncio.sleep(looks[-1].at - stage.now())
    names = [(user_id, after.item_ids[look.position], session_id) for look in looks]
    events = [
        {"event_id": f"{after.request_id}-{look.position}", **look_event(look, name, after.request_id, stage.start_ms)}
        for look, name in zip(looks, names, strict=True)
    ]
    await client.send(events)
    return left


def shares_of(reasons: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By part of the items' scores, how much of their order it makes, greatest first: its mean distance from its own
    mean, of all parts' together. Empty where all items score alike."""
    spread = {}
    for part in {name for reason in reasons for name in reason}:
        added = [reason.get(part, 0.0) for reason in reasons]
        spread[part] = fmean(abs(value - fmean(added)) for value in added)
    total = sum(spread.values())
    ordered = sorted(spread.items(), key=lambda each: (-each[1], each[0]))
    return {part: value / total for part, value in ordered} if total else {}
