# The life of `runnel up`: start, be ready, run until told to stop, stop cleanly, tell.
from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console

from commands.access import client_headers
from commands.errors import CommandError, told_plainly
from commands.settings import Settings, load_settings
from commands.system import System, api_url
from serving.keys import KeysMissing, require_keys


@dataclass(frozen=True)
class UpOptions:
    """What the command line gave; None where it was silent."""

    home: Path | None
    host: str | None
    port: int | None
    demo: bool
    freeze: bool
    duration: float | None  # seconds: of being ready, or in a demo of its users
    from_snapshot: Path | None  # begin from the snapshots in there
    kafka: str | None
    seed: int | None
    as_json: bool


def run_up(options: UpOptions) -> None:
    """Run until SIGINT, SIGTERM, SIGHUP or the end of the duration; prints the summary last."""
    console = Console(stderr=True)
    flags = {"home": options.home, "host": options.host, "port": options.port, "seed": options.seed}
    settings = load_settings(**flags, servers=options.kafka)
    with told_plainly(KeysMissing):
        require_keys(settings.host, settings.api_keys())
    fresh = options.demo and "home" not in settings.model_fields_set  # the demo's own home begins anew
    if fresh:
        settings = settings.model_copy(update={"home": settings.home / "demo"})
    summary = asyncio.run(_run(options, settings, fresh, console))
    if options.as_json:
        print(json.dumps(summary), flush=True)


class _Until:
    """Work that ends early when a person or the clock says stop, and fails when a child cannot run at all."""

    def __init__(self, system: System) -> None:
        self.stop = asyncio.Event()
        self.reason = ""  # what said stop
        self._watching: asyncio.Future[object] = asyncio.ensure_future(system.watch())

    def tell(self, reason: str) -> None:
        """Say stop; the first reason is kept."""
        self.reason = self.reason or reason
        self.stop.set()

    async def do(self, work: Awaitable[object]) -> bool:
        """Do the work unless told to stop first: whether it was done."""
        doing: asyncio.Future[object] = asyncio.ensure_future(work)
        stopping: asyncio.Future[object] = asyncio.ensure_future(self.stop.wait())
        try:
            done, _ = await asyncio.wait([doing, stopping, self._watching], return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
            return doing in done
        finally:
            doing.cancel()
            stopping.cancel()
            await asyncio.gather(doing, stopping, return_exceptions=True)

    async def end(self) -> None:
        """Look after the children no longer."""
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)


async def _run(options: UpOptions, settings: Settings, fresh: bool, console: Console) -> dict[str, object]:
    system = System(settings, learning=not options.freeze, say=console.print)
    try:
        until = _Until(system)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, until.tell, number.name)
        if fresh:
            system.empty()
        if options.from_snapshot is not None:
            system.restore(options.from_snapshot)
        try:
            if not await until.do(system.start_kafka()):
                return {}
            system.start()
            console.print(f"Runnel starts on {settings.home} (about ten seconds) ...")
            if not await until.do(system.wait_until_ready()):
                return {}
            console.print(f"Ready: {api_url(settings)} (calls: {api_url(settings)}/docs; Ctrl-C stops)")
            if options.demo:
                return await _run_demo(options, settings, system, until, console)
            _stop_after(options.duration, until)
            await until.do(asyncio.Event().wait())
            return await _summary(settings, system)
        finally:
            await until.end()
            console.print(f"Stopping ({until.reason or 'an error'}) ...")
    finally:
        system.stop()


async def _run_demo(
    options: UpOptions, settings: Settings, system: System, until: _Until, console: Console
) -> dict[str, object]:
    from commands.demo import Demo

    demo = Demo(settings, system, console)
    if await until.do(demo.prepare()):
        _stop_after(options.duration, until)
        await until.do(demo.run())
    return await demo.summary()


def _stop_after(seconds: float | None, until: _Until) -> None:
    if seconds is not None:
        asyncio.get_running_loop().call_later(seconds, until.tell, "the time is over")


async def _summary(settings: Settings, system: System) -> dict[str, object]:
    headers = client_headers(settings)
    async with httpx.AsyncClient(base_url=api_url(settings), headers=headers, timeout=5.0) as client:
        try:
            model = (await client.get("/v1/model")).raise_for_status().json()
        except httpx.HTTPError as error:
            raise CommandError(f"{api_url(settings)} did not answer in the end: {error}") from error
    return {"events": model["events_total"], "versions": model["model_version"], "restarts": system.restarts}
