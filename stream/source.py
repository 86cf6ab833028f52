# Where events come from: anything that can be polled from an offset on.
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, Protocol


class Message(NamedTuple):
    """One record of an event log: `value` holds one event or a JSON array of events."""

    partition: str
    offset: int
    received_at: int  # the log's stamp, milliseconds
    value: bytes
    key: bytes | None = None  # stands for the user_id (or item_id) of a single event that has none
    is_of_items: bool = False  # of a topic that holds changes of the catalogue and nothing else
    fault: str = ""  # why it is a dead letter whatever it holds
    headers: Sequence[tuple[str, bytes | None]] = ()  # no event's business; a dead letter keeps them


class SourceError(Exception):
    """A source cannot be read on. Whoever opens it anew goes on where the store stands."""


class SourceUnready(SourceError):  # noqa: N818 - says what is so
    """It cannot be read now; trying again is the cure."""


class SourceLost(SourceError):  # noqa: N818
    """It does not hold what comes next: a person has to decide. `go_on_at`: partition → where to read on if what is
    missing is given up, as of when that was found out."""

    def __init__(self, message: str, go_on_at: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.go_on_at = dict(go_on_at or {})


class EventSource(Protocol):
    """A partitioned log. An offset is the next to read; each partition's offsets and stamps never go back."""

    def identity(self) -> dict[str, str]:
        """What tells this log from another that was made in its place, by the name of each of its parts."""
        ...

    def partitions(self) -> list[str]:
        """The partitions this source reads."""
        ...

    @property
    def is_outdated(self) -> bool:
        """Whether it has other partitions now: open it anew."""
        ...

    def seek(self, partition: str, offset: int | None) -> int:
        """Read that partition from `offset` on, None: from the oldest message held; where that is."""
        ...

    def poll(self, max_messages: int, timeout_seconds: float) -> list[Message]:
        """The next messages, at most so many; empty when none came within the timeout."""
        ...

    def wait(self, timeout_seconds: float) -> None:
        """Return once there may be messages, or at the timeout: so waiting is no part of a step's time."""
        ...

    def end_offsets(self) -> dict[str, int]:
        """Partition to the offset its next message will get."""
        ...

    def passed(self) -> dict[str, int]:
        """Partition to where it is read on once every message given has been folded, where that may be beyond the last
        of them."""
        ...

    def keep(self, offsets: Mapping[str, int]) -> dict[str, int]:
        """What has to be done every few seconds; `offsets` are those committed. The end offsets that are known."""
        ...

    def close(self) -> None:
        """Let go of what the source holds."""
        ...


class IterableSource:
    """A list, a file or any other finite run of (received_at, value), as a source of one partition.

    It is read once, in order and lazily, so a file of any size takes no memory; seeking back raises ValueError.
    """

    is_outdated = False

    def __init__(self, values: Iterable[tuple[int, bytes]], partition: str = "values-0") -> None:
        self.partition = partition
        self._messages: Iterator[Message] = (
            Message(partition, offset, received_at, value) for offset, (received_at, value) in enumerate(values)
        )
        self._next = 0

    def identity(self) -> dict[str, str]:
        """Nothing: who has the file has the log."""
        return {}

    def partitions(self) -> list[str]:
        """The one partition."""
        return [self.partition]

    def seek(self, partition: str, offset: int | None) -> int:
        """Skip forward to `offset`; raises ValueError for another partition, or backwards."""
        if offset is None:
            return self._next
        if partition != self.partition or offset < self._next:
            raise ValueError(f"cannot go to offset {offset} of {partition!r}: {self.partition!r} is at {self._next}")
        next(islice(self._messages, offset - self._next, offset - self._next), None)
        self._next = offset
        return offset

    def poll(self, max_messages: int, timeout_seconds: float) -> list[Message]:  # noqa: ARG002 - never waits
        """The next messages; empty at the end."""
        messages = list(islice(self._messages, max_messages))
        self._next += len(messages)
        return messages

    def end_offsets(self) -> dict[str, int]:
        """The offset read to: the end of an iterable is not known before."""
        return {self.partition: self._next}

    def wait(self, timeout_seconds: float) -> None:
        """Never waits."""

    def passed(self) -> dict[str, int]:
        """Nothing but what was given."""
        return {}

    def keep(self, offsets: Mapping[str, int]) -> dict[str, int]:  # noqa: ARG002
        """Nothing to do."""
        return self.end_offsets()

    def close(self) -> None:
        """Nothing to close."""
