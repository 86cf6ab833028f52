# The demo's live panel.
from __future__ import annotations

from itertools import zip_longest
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from commands.demo_state import DemoState, Spotlight
from commands.view_rates import GROUPS, Interval

_LEAST_SHARE = 0.01  # of an order, that is worth a word
_BAR = 28  # characters of a view rate of 1
_WHO = {
    "learned": "what Runnel learned",
    "control": "control: popularity",
    "random": "a random list",
    "oracle": "the best list",
}


class Reading(NamedTuple):
    """What the panel shows beside the state itself."""

    seconds: float
    events_per_second: float
    intervals: dict[str, Interval]
    counted: str  # which moments the view rates count
    restarts: int


def panel(state: DemoState, reading: Reading) -> RenderableType:
    """The whole panel."""
    parts: list[RenderableType] = [_numbers(state, reading), _rates(reading)]
    if state.spotlight is not None:
        parts.extend(_lists(state.spotlight))
    parts.extend(Text(f"error, {count} times: {what}", style="red") for what, count in state.errors.most_common(3))
    return Panel(Group(*parts), title="Runnel: a recommender that learns from the stream", subtitle="Ctrl-C stops")


def _numbers(state: DemoState, reading: Reading) -> Table:
    latency = state.latency_ms()
    age = "-" if state.model_age_ms is None else f"{state.model_age_ms / 1000:.1f} s"
    table = Table.grid(padding=(0, 3))
    table.add_row(
        f"[b]{reading.events_per_second:,.0f}[/b] events/s",
        f"model version [b]{state.model_version}[/b], age {age}",
        f"event to recommendation p50 [b]{_ms(latency['p50'])}[/b], p99 [b]{_ms(latency['p99'])}[/b]",
    )
    table.add_row(
        f"{state.events:,} events, {state.lists:,} lists",
        f"{reading.seconds:,.0f} s",
        f"{sum(state.errors.values())} errors, {reading.restarts} restarts",
    )
    return table


def _rates(reading: Reading) -> Table:
    table = Table(title=f"View rate and 95 % interval ({reading.counted})", title_justify="left", show_header=False)
    for group in GROUPS:
        interval = reading.intervals[group]
        if interval.mean == interval.mean:
            bar = Text("█" * round(_BAR * interval.mean), style="green" if group == "learned" else "dim")
            rate = f"{interval.mean:.3f}  [{interval.low:.3f}, {interval.high:.3f}]"
            table.add_row(_WHO[group], Text(rate), bar)
    return table


def _lists(spotlight: Spotlight) -> tuple[RenderableType, ...]:
    heading = f"{spotlight.user_id} skips the first item; {spotlight.milliseconds:.0f} ms later the list knows"
    table = Table(box=None, padding=(0, 2))
    table.add_column("before")
    table.add_column("after")
    kept = set(spotlight.before)
    for place, (before, after) in enumerate(zip_longest(spotlight.before, spotlight.after, fillvalue="")):
        left = Text(before, style="strike red" if place == 0 else "" if before in spotlight.after else "dim")
        table.add_row(left, Text(after, style="" if after in kept else "green"))
    shown = ", ".join(f"{part} {share:.0%}" for part, share in spotlight.shares.items() if share >= _LEAST_SHARE)
    return Text(heading, style="italic"), table, Text(f"what orders that list: {shown or 'nothing yet'}", style="dim")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
