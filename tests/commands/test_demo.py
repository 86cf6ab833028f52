# The demo on a real system: its summary has what it promises, and users know what the truth says.
from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from rich.console import Console

from commands.demo import Demo, DemoConfig
from commands.demo_spotlight import shares_of
from commands.settings import load_settings
from commands.system import System

pytestmark = pytest.mark.timeout(300)
_SMALL = DemoConfig(past_users=60, past_speed=300.0, warm_up=1.0, draws=100)


async def _run(system: System, demo: Demo, seconds: float) -> dict[str, object]:
    watching = asyncio.ensure_future(system.watch())
    await system.wait_until_ready()
    await demo.prepare()
    running = asyncio.ensure_future(demo.run())
    await asyncio.wait([running, watching], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    assert not running.done()
    assert not watching.done()
    for task in (running, watching):
        task.cancel()
    await asyncio.gather(running, watching, return_exceptions=True)
    return await demo.summary()


def test_users_live_on_the_api_without_errors_and_the_summary_tells_all_it_promises(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = load_settings(home=tmp_path, port=port, seed=1)
    system = System(settings, learning=True, say=print)
    try:
        system.start()
        summary = asyncio.run(_run(system, Demo(settings, system, Console(stderr=True), _SMALL), 12.0))
    finally:
        system.stop()
    assert set(summary) == {"events", "versions", "event_to_recommendation_ms", "shares", "view_rate", "errors"}
    assert summary["errors"] == 0
    assert int(str(summary["events"])) > 2000
    assert int(str(summary["versions"])) > 1
    latency, rates = summary["event_to_recommendation_ms"], summary["view_rate"]
    assert isinstance(latency, dict)
    assert set(latency) == {"p50", "p99"}
    shares = summary["shares"]
    assert isinstance(shares, dict)
    assert sum(shares.values()) == pytest.approx(1.0, abs=0.01)
    assert isinstance(rates, dict)
    assert set(rates) == {"learned", "control", "random", "oracle"}
    for interval in rates.values():
        assert 0 <= interval["low"] <= interval["mean"] <= interval["high"] <= 1
    assert rates["random"]["high"] < rates["oracle"]["low"]


def test_a_part_s_share_is_how_far_it_moves_items_apart() -> None:
    reasons = [{"transformer": 3.0, "age": 5.0, "recent": 0.5}, {"transformer": -3.0, "age": 5.0, "recent": -0.5}]
    shares = shares_of(reasons)
    assert list(shares) == ["transformer", "recent", "age"]
    assert list(shares.values()) == pytest.approx([6 / 7, 1 / 7, 0.0])
    assert shares_of([]) == shares_of([{"age": 1.0}, {"age": 1.0}]) == {}
