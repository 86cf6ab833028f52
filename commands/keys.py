# runnel keys: a new API key and the line that makes the service know it.
from __future__ import annotations

from typing import Annotated

import typer

from serving.keys import RIGHTS

_RIGHTS = typer.Option(help=f"What the key may do, separated by commas: {', '.join(RIGHTS)}.")


def keys(
    name: Annotated[str, typer.Argument(help="Who will use the key; the service names it where it refuses a call.")],
    rights: Annotated[str, _RIGHTS] = "events,recommendations",
) -> None:
    """Make an API key: the key itself goes to standard error, once; its line for the keys file to standard output.

    `runnel keys shop >> keys.txt`, then start with RUNNEL_SERVE__KEYS_FILE=keys.txt (or `keys_file` of [serve] in
    runnel.toml). The service keeps hashes alone: a lost key is replaced by a new one. To withdraw a key delete its line
    and restart. Programs send it as `Authorization: Bearer KEY`; runnel's own commands read it from RUNNEL_API_KEY.
    """
    import secrets
    import sys

    from commands.errors import CommandError
    from serving.keys import ApiKey, hash_key, parse_rights

    if len(name.split()) != 1 or set(name) & set("#;"):
        raise CommandError(f"name {name!r}: one word without # and ;")
    secret = secrets.token_urlsafe(32)
    try:
        key = ApiKey(name, parse_rights(rights), hash_key(secret))
    except ValueError as error:
        raise CommandError(f"--rights: {error}") from None
    print(f"key of {name} (shown this once): {secret}", file=sys.stderr)
    print(key.line())
