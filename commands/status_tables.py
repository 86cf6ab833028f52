# The state of a home as tables for a person.
from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Rows = Mapping[str, Mapping[str, object]]


def status_tables(state: Mapping[str, object]) -> Group:
    """What `read_status` found."""
    return Group(*_parts(state))


def _parts(state: Mapping[str, object]) -> Iterator[RenderableType]:
    facts = Table(title=f"Runnel on {state['home']}", show_header=False, title_justify="left", box=None)
    for key in ("api", "url", "up_seconds", "model_version", "events_total", "events", "per_second"):
        if state.get(key) is not None:
            facts.add_row(key.replace("_", " "), _text(state[key]))
    disk = state["disk_bytes"]
    assert isinstance(disk, dict)
    sizes = ", ".join(f"{part} {_size(size)}" for part, size in disk.items() if size)
    free = state["disk_free_bytes"]
    facts.add_row("disk", f"{sizes}; {_size(free)} free" if isinstance(free, int) else sizes)
    yield facts
    for key in ("stages", "replicas", "models", "processes"):
        rows = state[key]
        assert isinstance(rows, dict)
        if rows:
            yield _table(key, rows)
    wrongs = state["wrongs"]
    assert isinstance(wrongs, list)
    for wrong in wrongs:
        yield Text(f"{wrong['at']} {wrong['level']} {wrong['process']}: {wrong['message']}")


def _table(title: str, rows: Rows) -> Table:
    columns = list(next(iter(rows.values())))
    table = Table(title, *(column.replace("_", " ") for column in columns), box=SIMPLE_HEAD)
    for name, row in rows.items():
        table.add_row(name, *(_text(row[column]) for column in columns))
    return table


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{_text(part)} {name}" for name, part in value.items()) or "-"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else str(value)


def _size(num_bytes: float) -> str:
    size = num_bytes / 1e6
    return f"{size / 1000:.1f} GB" if size >= 1000 else f"{size:.1f} MB"
