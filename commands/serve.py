# runnel serve: Ray Serve and the HTTP API of one home.
from __future__ import annotations

from typing import Annotated

import typer

from commands.options import Deltas, Home, Host, Kafka, Port, Supervisor


def serve(
    home: Home = None,
    host: Host = None,
    port: Port = None,
    kafka: Kafka = None,
    deltas: Deltas = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="No learn stage is expected to run.")] = False,
    supervisor: Supervisor = 0,
) -> None:
    """Run the HTTP API: take events, answer with lists, follow every model version without a pause.

    One of the processes that `runnel up` starts; it brings its own Ray, on loopback. http://HOST:PORT/docs shows all
    calls.
    """
    from dataclasses import replace

    from commands.access import home_key
    from commands.child import begin
    from commands.errors import told_plainly
    from commands.settings import load_settings
    from serving.claim import HomeInUse
    from serving.cluster import serve_until
    from serving.keys import KeysMissing
    from serving.ports import PortInUse

    stop = begin("serve", supervisor)
    settings = load_settings(home=home, host=host, port=port, servers=kafka, deltas=deltas)
    service = settings.service_config()
    if freeze:
        service = replace(service, stages=service.stages[:1])
    if service.keys:
        service = replace(service, keys=(*service.keys, home_key(settings.home)))
    with told_plainly(PortInUse, HomeInUse, KeysMissing):
        serve_until(stop, settings.cluster_config(), service)
