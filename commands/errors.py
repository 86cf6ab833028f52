# What a command says when it cannot go on: one line for a person, no traceback.
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class CommandError(Exception):
    """A person can repair this (a wrong setting, a port in use, no system running); the text says what and how."""


@contextmanager
def told_plainly(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of these kinds, whose texts are written for people, into CommandError."""
    try:
        yield
    except kinds as error:
        raise CommandError(str(error)) from error
