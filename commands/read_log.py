# The newest lines of a home's logs that tell of something wrong.
from __future__ import annotations

import json
from pathlib import Path

_TAIL_BYTES = 1 << 16  # of each log
_WRONG = {"warning", "error", "critical"}


def read_wrongs(run_dir: Path, limit: int) -> list[dict[str, str]]:
    """The newest `limit` lines of all logs at level warning or above, oldest first: at, level, process, message."""
    wrongs = [line for path in run_dir.glob("*.log") for line in _lines(path)]
    return sorted(wrongs, key=lambda line: line["at"])[-limit:]


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        tail = file.read().splitlines()
    return [line for line in map(_wrong, tail) if line]


def _wrong(data: bytes) -> dict[str, str]:
    """The parts of a line that tell of something wrong; empty for any other, or what is no line of ours."""
    try:
        line = json.loads(data)
        found = {name: str(line[name]) for name in ("at", "level", "process", "message")}
    except (ValueError, KeyError, TypeError):
        return {}
    return found if found["level"] in _WRONG else {}
