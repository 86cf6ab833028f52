# runnel replay: sends a data set's events to a running system.
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commands.options import Host, Json, Kafka, Port

_DATA = typer.Option(help="Directory of the data sets, or one such file. (default: $RUNNEL_DATA or ../shared/data)")


def replay(
    name: Annotated[str, typer.Argument(help="Data set: globo, diginetica, ml-100k or events (our own JSON lines).")],
    data: Annotated[Path | None, _DATA] = None,
    speed: Annotated[str, typer.Option(help="'max', or a multiple of real time such as 1 or 60.")] = "max",
    limit: Annotated[int | None, typer.Option(min=1, help="Send this many events, then stop.")] = None,
    host: Host = None,
    port: Port = None,
    kafka: Kafka = None,
    as_json: Json = False,
) -> None:
    """Send a data set's events to a running system (`runnel up`) or straight to Kafka, with a progress bar.

    When the system asks to wait (429, 503) or restarts, replay waits and goes on.
    """
    import asyncio
    import json

    from commands.access import client_headers
    from commands.errors import told_plainly
    from commands.send import SendConfig, send
    from commands.send_kafka import send_to_kafka
    from commands.settings import load_settings
    from commands.system import api_url
    from stream.readers import DataError, open_data_set

    settings = load_settings(host=host, port=port, data=data, servers=kafka)
    with told_plainly(DataError):
        events, num_events = open_data_set(name, settings.data, limit)
        config = SendConfig(_speed(speed), headers=client_headers(settings))
        timed = ((event.timestamp, event.value) for event in events)
        if settings.kafka.servers:
            sent = asyncio.run(send_to_kafka(settings.kafka, timed, num_events, config))
        else:
            sent = asyncio.run(send(api_url(settings), timed, num_events, config))
    if as_json:
        print(json.dumps(sent.summary()))


def _speed(text: str) -> float | None:
    try:
        speed = None if text == "max" else float(text)
    except ValueError:
        raise typer.BadParameter(f"--speed {text!r}: write max, or a number such as 60") from None
    if speed is not None and not 0 < speed < float("inf"):
        raise typer.BadParameter(f"--speed {text!r}: must be more than 0")
    return speed
