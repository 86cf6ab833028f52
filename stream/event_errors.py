# What the JSON decoder said of a bad event, as the field that is to blame and the reason.
from __future__ import annotations

import re

import msgspec

_FIELD = re.compile(r" - at `\$(?:\[\d+\])?\.?([^`]*)`$")
_MISSING = re.compile(r"missing required field `([^`]+)`")


def explain(error: Exception, names: str) -> tuple[str, str]:
    """(field, reason) out of what the decoder said; `names` are the types that there are."""
    if isinstance(error, UnicodeDecodeError):
        return "", "not UTF-8"
    if isinstance(error, RecursionError):
        return "", "nested too deep"
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return "", f"not JSON: {text}"
    place = _FIELD.search(text)
    field = place.group(1) if place else ""
    reason = text[: place.start()] if place else text
    if missing := _MISSING.search(reason):
        return missing.group(1), "missing"
    if field == "type" and reason.startswith("Invalid value"):
        return field, f"unknown signal {reason.removeprefix('Invalid value ')}; known are {names}"
    return field, reason
