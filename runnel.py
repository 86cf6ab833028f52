# runnel.py: the command line. `runnel --help` lists the commands; each lives in its own file of commands/.
from __future__ import annotations

import sys

import typer

from commands.compact import compact
from commands.dead_letters import dead_letters
from commands.errors import CommandError
from commands.evaluate import evaluate
from commands.fold import fold
from commands.follow import follow
from commands.keys import keys
from commands.learn import learn
from commands.replay import replay
from commands.rollback import rollback
from commands.serve import serve
from commands.ship import ship
from commands.simulate import simulate
from commands.snapshot import snapshot
from commands.status import status
from commands.topics import topics
from commands.up import up

_ABOUT = """Runnel is a recommender that learns from the stream of events.

Start with `runnel up --demo`: the whole system on this machine, with simulated users.
Settings come from flags, RUNNEL_* variables and ./runnel.toml; every one has a default that works.
"""

app = typer.Typer(help=_ABOUT, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (
    up,
    fold,
    learn,
    follow,
    ship,
    serve,
    replay,
    evaluate,
    simulate,
    status,
    keys,
    snapshot,
    rollback,
    compact,
    dead_letters,
    topics,
):
    app.command()(command)


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 a fault of ours, 2 something that the caller can repair."""
    try:
        app()
    except CommandError as error:
        print(f"runnel: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
