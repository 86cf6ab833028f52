# Where events are written to: what a sink has acknowledged is durable.
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from stream.writer import Value

__all__ = ["EventSink", "NotWritten", "SinkClosed", "SinkConfig", "SinkError", "SinkFull", "Value"]


class EventSink(Protocol):
    """What takes events and says when they are durable."""

    @property
    def is_keyed(self) -> bool:
        """Whether values have to be of one key each."""
        ...

    async def append(self, *values: Value) -> dict[str, int]:
        """Partition → the offset after the last of the values that went there, once all are durable. Raises SinkError,
        or ValueError for a value that is too large."""
        ...

    def append_unsynced(self, value: Value) -> bool:
        """Write soon, with no word about when; False where the value was dropped because too many wait."""
        ...

    def num_behind(self, folded: Mapping[str, int]) -> int:
        """Values that wait for a fold stage which has read up to these offsets, as far as the sink should mind."""
        ...

    @property
    def is_alive(self) -> bool:
        """Whether values can still be written; once False, never again."""
        ...

    def close(self) -> None:
        """Write what waits, then stop."""
        ...


class SinkError(Exception):
    """A value was not taken."""


class SinkFull(SinkError):  # noqa: N818 - says what happened
    """More bytes wait to be written than the sink may hold: the caller should try again later."""


class SinkClosed(SinkError):  # noqa: N818
    """The sink takes no more values."""


class NotWritten(SinkError):  # noqa: N818
    """What should be written to could not take the values. Some of them may have been written all the same where they
    go to several partitions; events that are sent again count once."""


@dataclass(frozen=True)
class SinkConfig:
    """Bounds of the group commit."""

    max_value_bytes: int = 512 * 1024  # so that the delta of one value stays below its own limit
    max_pending_bytes: int = 64 * 1024 * 1024
    max_group_bytes: int = 8 * 1024 * 1024  # one transaction; bounds how long other processes wait for theirs
    unsynced_seconds: float = 0.05  # unsynced values wait so long for an acknowledged one to travel with
