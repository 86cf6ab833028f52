# The clock of retention: pauses are not jumps, a jump ahead is doubted for a while, a jump back is followed.
from __future__ import annotations

from stream.clock import RetentionClock
from tests.stream.helpers import NOW

HOUR = 3_600_000


class Times:
    """A clock on the wall and a steady one, moved by hand."""

    def __init__(self) -> None:
        self.wall, self.steady = NOW, 50.0
        self.clock = RetentionClock(HOUR, lambda: self.wall, lambda: self.steady)

    def pass_ms(self, ms: int) -> int:
        """Both go on; what the clock of retention says, as the difference to the beginning."""
        self.wall, self.steady = self.wall + ms, self.steady + ms / 1000
        return self.clock() - NOW


def test_it_is_the_clock_on_the_wall_while_that_is_sound() -> None:
    times = Times()
    assert [times.pass_ms(5000), times.pass_ms(2 * HOUR)] == [5000, 5000 + 2 * HOUR]
    times.wall += 50_000  # a correction
    assert times.pass_ms(1000) == 2 * HOUR + 56_000


def test_a_jump_ahead_is_not_followed_until_it_has_lasted() -> None:
    times = Times()
    times.wall += 1000 * HOUR
    assert times.pass_ms(5000) == 5000
    assert times.pass_ms(HOUR - 6000) == HOUR - 1000
    assert times.pass_ms(2000) == 1001 * HOUR + 1000


def test_a_jump_ahead_that_is_repaired_leaves_no_trace() -> None:
    times = Times()
    times.wall += 1000 * HOUR
    times.pass_ms(HOUR // 2)
    times.wall -= 1000 * HOUR
    assert times.pass_ms(HOUR) == HOUR + HOUR // 2
    times.wall += 1000 * HOUR
    assert times.pass_ms(HOUR // 2) == 2 * HOUR  # doubted anew


def test_a_jump_back_is_followed_at_once() -> None:
    times = Times()
    times.wall -= 1000 * HOUR
    assert times.pass_ms(5000) == 5000 - 1000 * HOUR
