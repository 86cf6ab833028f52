# An array that is not JSON as a whole, cut into its elements, so that the bad one alone is refused.
from __future__ import annotations

import json
import re

# What Python reads beyond JSON: NaN, Infinity, halves of surrogate pairs, control characters.
_DECODER = json.JSONDecoder(strict=False)
_SPACE = re.compile(r"[ \t\r\n]*")
_START = re.compile(r'[ \t\r\n]*(?:\{[ \t\r\n]*"(\w+)"[ \t\r\n]*:[ \t\r\n]*)?\[')
_MAX_BYTES = 1 << 20  # one element of the array is held as Python objects while it is read


def cut_array(body: bytes, name: str) -> list[bytes] | None:
    """The elements of `[…]` or `{NAME: […]}` as they stand; None where even their borders cannot be told."""
    text = body.decode("utf-8", "surrogateescape") if len(body) <= _MAX_BYTES else ""
    start = _START.match(text)
    if start is None or start.group(1) not in (None, name):
        return None
    elements: list[str] = []
    place = _skip(text, start.end())
    while text[place : place + 1] != "]" or elements:
        try:
            _, end = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            return None
        elements.append(text[place:end])
        place = _skip(text, end)
        if text[place : place + 1] == "]":
            break
        if text[place : place + 1] != ",":
            return None
        place = _skip(text, place + 1)
    rest = text[place + 1 :].strip(" \t\r\n")
    if rest != ("}" if start.group(1) else ""):
        return None
    return [element.encode("utf-8", "surrogateescape") for element in elements]


def _skip(text: str, place: int) -> int:
    space = _SPACE.match(text, place)
    return space.end() if space else place
