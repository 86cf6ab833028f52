# runnel dead-letters: events that broke a rule, each with its reason.
from __future__ import annotations

from typing import Annotated

import typer

from commands.options import Home, Json

_LIMIT = typer.Option(min=1, help="How many, newest first.")


def dead_letters(home: Home = None, limit: Annotated[int, _LIMIT] = 20, as_json: Json = False) -> None:
    """List events that were in the log and broke a rule, newest first: when, where, which field, why.

    They are kept a week, the newest 10,000 (fold.stage.dead_letters). Events that the API refuses are not among them:
    its answer told the sender.
    """
    import json
    from datetime import UTC, datetime
    from itertools import islice

    import msgspec
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from commands.errors import told_plainly
    from commands.settings import load_settings
    from state.store import Store, StoreError
    from stream.dead_letters import read_dead_letters

    with told_plainly(StoreError), Store(load_settings(home=home).home / "fold") as store, store.read() as txn:
        letters = list(islice(read_dead_letters(txn, store), limit))
    shown = [{**msgspec.structs.asdict(each), "raw": each.raw.decode("utf-8", "backslashreplace")} for each in letters]
    if as_json:
        print(json.dumps({"dead_letters": shown}))
        return
    table = Table("received (UTC)", "offset", "field", "reason", "event", title=f"The newest {len(shown)} dead letters")
    for letter in shown:
        received_at = datetime.fromtimestamp(letter["received_at"] / 1000, UTC).isoformat(" ", "seconds")[:19]
        place = f"{letter['partition']} {letter['offset']} [{letter['index']}]"
        told = (place, letter["field"], letter["reason"], letter["raw"][:80])
        table.add_row(received_at, *(escape(text) for text in told))  # brackets are no markup
    Console().print(table)
