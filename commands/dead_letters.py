# runnel dead-letters: events that broke a rule, each with its reason; sends them again.
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from commands.options import Home, Json, Kafka

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from commands.settings import Settings
    from state.store import Store, Txn
    from stream.dead_letters import DeadLetter
    from stream.resubmit import Resubmitted

_LIMIT = typer.Option(min=1, help="How many, newest first.")
_RESUBMIT = typer.Option(
    metavar="ID",
    help="Send this event again, as it came, to the log it came from; may be given several times. `all`: each that is "
    "kept, oldest first.",
)
_ALL = "all"


def dead_letters(
    home: Home = None,
    limit: Annotated[int, _LIMIT] = 20,
    resubmit: Annotated[list[str] | None, _RESUBMIT] = None,
    kafka: Kafka = None,
    as_json: Json = False,
) -> None:
    """List events that were in the log and broke a rule, newest first, each with field and reason; or send them again.

    They are kept a week, the newest 10,000 (fold.stage.dead_letters). Events that the API refuses are not among them:
    its answer told the sender. An event that is sent again counts once, however often; one that still breaks a rule is
    a dead letter again, with another id.
    """
    from itertools import islice

    from commands.errors import told_plainly
    from commands.settings import load_settings
    from state.store import Store, StoreError
    from stream.dead_letters import read_dead_letters
    from stream.source import SourceError

    settings = load_settings(home=home, servers=kafka)
    with told_plainly(StoreError, SourceError), Store(settings.home / "fold") as store, store.read() as txn:
        if resubmit:
            done = _resubmit(settings, _selected(txn, store, resubmit))
        else:
            letters = list(islice(read_dead_letters(txn, store), limit))
    if resubmit:
        _tell(done, as_json)
    else:
        _show(letters, as_json)


def _show(letters: Sequence[DeadLetter], as_json: bool) -> None:
    import json
    from datetime import UTC, datetime

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if as_json:
        print(json.dumps({"dead_letters": [_plain(letter) for letter in letters]}))
        return
    table = Table("received (UTC)", "id", "field", "reason", "event", title=f"The newest {len(letters)} dead letters")
    for letter in letters:
        received_at = datetime.fromtimestamp(letter.received_at / 1000, UTC).isoformat(" ", "seconds")[:19]
        told = (letter.identity, letter.field, letter.reason, _text(letter.raw)[:80])
        table.add_row(received_at, *(escape(text) for text in told))  # brackets are no markup
    Console().print(table)


def _plain(letter: DeadLetter) -> dict[str, object]:
    """A letter for a script."""
    import msgspec

    texts = {"raw": _text(letter.raw), "key": None if letter.key is None else _text(letter.key)}
    headers = [(name, None if value is None else _text(value)) for name, value in letter.headers]
    return {"id": letter.identity, **msgspec.structs.asdict(letter), **texts, "headers": headers}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _selected(txn: Txn, store: Store, wanted: Sequence[str]) -> Iterator[DeadLetter]:
    """Those wanted, oldest first. Raises CommandError where one is not there, before any is sent."""
    from commands.errors import CommandError
    from stream.dead_letters import dead_letters_from

    known = {letter.identity for _, letter in dead_letters_from(txn, store)}
    if unknown := [name for name in wanted if name not in known and name != _ALL]:
        raise CommandError(f"{store.path}: no dead letter {unknown[0]!r} is kept; nothing was sent")
    letters = (letter for _, letter in dead_letters_from(txn, store))
    return (letter for letter in letters if _ALL in wanted or letter.identity in wanted)


def _resubmit(settings: Settings, letters: Iterator[DeadLetter]) -> list[Resubmitted]:
    from contextlib import closing

    from commands.errors import CommandError
    from stream.log import EventLog
    from stream.resubmit import resubmit_to_log
    from stream.run import now_ms

    if settings.kafka.servers:
        from stream.resubmit_kafka import resubmit_to_kafka

        return resubmit_to_kafka(settings.kafka, letters)
    path = settings.home / "log"
    if not path.is_dir():
        raise CommandError(f"{path}: there is no such log; a Kafka that this home reads is named by --kafka HOST:PORT")
    with closing(EventLog(path)) as log:
        return resubmit_to_log(log, letters, now_ms())


def _tell(done: Sequence[Resubmitted], as_json: bool) -> None:
    """What was sent, and as an error what was not."""
    import json

    from commands.errors import CommandError

    sent = [each.identity for each in done if not each.failure]
    failures = {each.identity: each.failure for each in done if each.failure}
    if as_json:
        print(json.dumps({"sent": sent, "not_sent": failures}))
    else:
        for identity in sent:
            print(f"sent again: {identity}")
        for identity, failure in failures.items():
            print(f"not sent: {identity}: {failure}")
    if failures:
        raise CommandError(f"{len(failures)} of {len(done)} dead letters were not sent again")
