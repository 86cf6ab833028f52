# What the time is for retention: a clock that jumps ahead must not make the stages forget.
from __future__ import annotations

from collections.abc import Callable
from time import monotonic, time_ns

_SLEWED_MS = 60_000  # a difference that the correction of a sound clock may make


class RetentionClock:
    """Milliseconds since 1970, of which what is old is judged.

    When the clock jumps ahead, this one goes on at the pace of time, and follows only when the jump has lasted
    `doubt_ms`: until then it may be repaired, and what was trimmed would be gone. When the clock jumps back, so does
    this one: then more is kept for longer.
    """

    def __init__(
        self,
        doubt_ms: int = 3_600_000,
        wall_ms: Callable[[], int] = lambda: time_ns() // 1_000_000,
        steady_seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._doubt_ms, self._wall_ms, self._steady_seconds = doubt_ms, wall_ms, steady_seconds
        self._believed = wall_ms()
        self._looked_at = self._agreed_at = self._steady_ms()

    def __call__(self) -> int:
        """Call it every few seconds, or it takes long pauses for jumps."""
        wall, steady = self._wall_ms(), self._steady_ms()
        expected = self._believed + steady - self._looked_at
        if wall - expected <= _SLEWED_MS or steady - self._agreed_at > self._doubt_ms:
            expected, self._agreed_at = wall, steady
        self._believed, self._looked_at = expected, steady
        return expected

    def _steady_ms(self) -> int:
        return int(self._steady_seconds() * 1000)
