# runnel status: what a home's system is doing now, for a person or a script.
from __future__ import annotations

from commands.options import Home, Host, Json, Port


def status(home: Home = None, host: Host = None, port: Port = None, as_json: Json = False) -> None:
    """Show the state of a home: stages, versions, lags, rates, models, disk, and what went wrong lately.

    Also of a home where nothing runs, from its stores.
    """
    import json

    from rich.console import Console

    from commands.read_status import read_status
    from commands.settings import load_settings
    from commands.status_tables import status_tables

    state = read_status(load_settings(home=home, host=host, port=port))
    if as_json:
        print(json.dumps(state))
    else:
        Console().print(status_tables(state))
