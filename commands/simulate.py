# runnel simulate: events of simulated users, for a machine that has no data.
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commands.options import Host, Json, Port, Seed


def simulate(
    out: Annotated[Path | None, typer.Option(help="Write JSON lines to this file instead of sending them.")] = None,
    events: Annotated[int, typer.Option(min=1, help="How many events.")] = 50_000,
    seed: Seed = None,
    host: Host = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Make events of simulated users with drifting tastes; send them to a running system, or write them to a file.

    Half of each list that a simulated user sees is good for them, half is random. `runnel evaluate events --data FILE`
    and `runnel replay events --data FILE` read the file. For users that use the system's own lists: `runnel up --demo`.
    """
    import asyncio
    import json
    from time import time

    from commands.access import client_headers
    from commands.history import simulated_events
    from commands.send import SendConfig, send
    from commands.settings import load_settings
    from commands.system import api_url

    settings = load_settings(seed=seed, host=host, port=port)
    made = simulated_events(settings.seed, events, int(time() * 1000))
    summary: dict[str, object]
    if out is None:
        config = SendConfig(headers=client_headers(settings))
        summary = asyncio.run(send(api_url(settings), made, events, config)).summary()
    else:
        with out.open("wb") as file:
            file.writelines(value + b"\n" for _, value in made)
        summary = {"events": events, "file": str(out)}
    print(json.dumps(summary) if as_json else "\n".join(f"{name}: {value}" for name, value in summary.items()))
