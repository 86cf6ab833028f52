# What stages, shippers and followers agree on: the names of stores, and how far a store's deltas have been shipped.
from __future__ import annotations

from pathlib import Path

from state.store import Stage


def fold_name(number: int) -> str:
    """How the learner and followers call a fold store."""
    return f"fold-{number}"


def fold_key(number: int, num_folds: int) -> str:
    """What the messages of a fold store carry: deltas of stores that share the events otherwise do not go together."""
    return f"{fold_name(number)}/{num_folds}"


def fold_keys(num_folds: int) -> dict[str, str]:
    """The folds that share the events: name → key of its messages."""
    return {fold_name(number): fold_key(number, num_folds) for number in range(num_folds)}


def shipped_note(home: Path, stage: Stage) -> Path:
    """The file in which the shipper of a home's store tells how far it is."""
    return home / "run" / f"shipped-{stage}"


def shipped(note: Path) -> int:
    """The last version that is known to be on its topic, 0 where nothing is known."""
    try:
        return int(note.read_text())
    except (FileNotFoundError, ValueError):
        return 0


def note_shipped(note: Path, version: int) -> None:
    """Tell it, at once or not at all."""
    draft = note.with_suffix(".new")
    draft.write_text(f"{version}\n")
    draft.replace(note)
