# The table of signals: kinds of event that say something about a user and an item.
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Signal:
    """One kind of event. `code` (1 to 255) is what records hold and is never reused for another name."""

    name: str
    code: int
    label: float  # 1 wanted, 0 not wanted
    weight: float  # how much an example of it counts in learning; 0 is not learned from
    min_dwell_ms: int = 0  # an event with less dwell time than this is a skip


SIGNALS = (
    Signal("view", 1, label=1.0, weight=1.0, min_dwell_ms=2000),
    Signal("skip", 2, label=0.0, weight=1.0),
    Signal("like", 3, label=1.0, weight=2.0),
    Signal("dislike", 4, label=0.0, weight=2.0),
    Signal("click", 5, label=1.0, weight=1.0),
    Signal("complete", 6, label=1.0, weight=1.5),
    Signal("share", 7, label=1.0, weight=3.0),
    Signal("cart", 8, label=1.0, weight=3.0),
    Signal("purchase", 9, label=1.0, weight=5.0),
    Signal("undo", 10, label=0.0, weight=0.0),
)
_FLOAT32_MAX = float(np.finfo(np.float32).max)
# What a signal says about disliking its item. A like does not undo: the set is bounded, and likes would crowd it.
_DISLIKED = {"dislike": 1, "undo": 0}


class SignalTable:
    """The signals of an installation, by name and by code.

    Raises ValueError where a name or a code is used twice, a code is outside 1..255, or a label or weight is not a
    finite number from 0 on.
    """

    def __init__(self, signals: Iterable[Signal] = SIGNALS) -> None:
        self.by_name: dict[str, Signal] = {}
        self.by_code: dict[int, Signal] = {}
        self.labels: NDArray[np.float32] = np.zeros(256, np.float32)  # by code
        self.weights: NDArray[np.float32] = np.zeros(256, np.float32)  # by code
        for signal in signals:
            self._add(signal)
        self.disliked = {self.by_name[name].code: said for name, said in _DISLIKED.items() if name in self.by_name}

    def _add(self, signal: Signal) -> None:
        if not 1 <= signal.code <= 255:
            raise ValueError(f"signal {signal.name!r}: code {signal.code} is not within 1..255")
        for key, number in (("label", signal.label), ("weight", signal.weight)):
            if not 0 <= number <= _FLOAT32_MAX:  # also refuses NaN
                raise ValueError(f"signal {signal.name!r}: {key} {number} is not a finite number from 0 on")
        if signal.name in self.by_name:
            raise ValueError(f"signal {signal.name!r} is given twice")
        if signal.code in self.by_code:
            raise ValueError(f"signals {self.by_code[signal.code].name!r} and {signal.name!r} share code {signal.code}")
        self.by_name[signal.name] = self.by_code[signal.code] = signal
        self.labels[signal.code], self.weights[signal.code] = signal.label, signal.weight

    def dump(self) -> dict[str, int]:
        """Name → code, as a store keeps it: labels and weights may change, codes may not."""
        return {signal.name: signal.code for signal in self.by_name.values()}

    def merged(self, stored: Mapping[str, int]) -> dict[str, int]:
        """The stored codes with this table's new names appended.

        Raises ValueError naming the signal where a code changed or belonged to another name, also one no longer used.
        """
        names = {code: name for name, code in stored.items()}
        for name, code in self.dump().items():
            if stored.get(name, code) != code:
                raise ValueError(f"signal {name!r} has code {stored[name]} in the store, {code} in the settings")
            if names.get(code, name) != name:
                raise ValueError(f"signal {name!r} has code {code}, which the store uses for {names[code]!r}")
        return {**stored, **self.dump()}
