# The process that writes a sink's values to the embedded log: all that waits goes in one synced transaction.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from state.lock import StoreError
from stream.log import PARTITION, EventLog, EventLogConfig
from stream.writer import Grouping, Outcome, Piece, read_settings, run_writer


class LogWriterSettings(msgspec.Struct):
    """What the process is told by its sink."""

    path: str
    log: EventLogConfig
    grouping: Grouping


def append(log: EventLog, group: Sequence[Piece]) -> list[Outcome]:
    """Write all of a group or nothing; each piece's outcome."""
    outcomes: list[Outcome] = []
    try:
        received_at = max(piece.received_at for piece in group)
        offset = log.append([value.data for piece in group for value in piece.values], received_at)
    except (StoreError, OSError) as failure:
        return [str(failure)] * len(group)
    for piece in group:
        offset += len(piece.values)
        outcomes.append({PARTITION: offset})
    return outcomes


def main() -> None:
    """Write until the sink is gone."""
    settings = msgspec.json.decode(read_settings(), type=LogWriterSettings)
    log = EventLog(Path(settings.path), settings.log)
    run_writer(lambda group: append(log, group), settings.grouping)
    log.close()


if __name__ == "__main__":
    main()
