# Durations as people write them: 90s, 5m, 1h.
from __future__ import annotations

import re

import typer

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str | float) -> float:
    """Seconds; typer.BadParameter naming the text where it is no duration."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(text).strip())
    if match is None or float(match[1]) == 0:
        raise typer.BadParameter(f"{text!r} is no duration: write 90s, 5m or 1h")
    return float(match[1]) * _SECONDS[match[2]]
