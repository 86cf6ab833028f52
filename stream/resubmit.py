# Dead letters sent again to the home's log, once what was wrong is right.
from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from state.store import StoreError
from stream.dead_letters import DeadLetter
from stream.log import PARTITION, EventLog

_APPENDED = 500  # letters of one transaction


class Resubmitted(NamedTuple):
    """What became of a dead letter that was to be sent again."""

    identity: str
    failure: str = ""  # why it was not sent


def resubmit_to_log(log: EventLog, letters: Iterable[DeadLetter], now_ms: int) -> list[Resubmitted]:
    """Append the letters' events, as they came and in their order; durable when this returns."""
    done: list[Resubmitted] = []
    remaining = iter(letters)
    while batch := list(islice(remaining, _APPENDED)):
        failures = [refusal(letter, [PARTITION]) for letter in batch]
        events = [letter.raw for letter, failure in zip(batch, failures, strict=True) if not failure]
        try:
            log.append(events, now_ms)
        except StoreError as error:
            failures = [failure or str(error) for failure in failures]
        done += [Resubmitted(letter.identity, failure) for letter, failure in zip(batch, failures, strict=True)]
    return done


def refusal(letter: DeadLetter, partitions: Iterable[str]) -> str:
    """Why a letter cannot be sent to a log of these partitions, "" where it can."""
    if letter.is_cut:
        return "it was too large to be kept whole"
    if letter.partition not in partitions:
        return f"it came from {letter.partition}, and this log has {', '.join(partitions)}"
    return ""
