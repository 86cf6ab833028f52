# runnel compact: gives the disk back what a home no longer uses, while the system runs.
from __future__ import annotations

from typing import TYPE_CHECKING

from commands.options import Home

if TYPE_CHECKING:
    from state.store import Stage

_STAGES: dict[str, Stage] = {"learn": "learn", "fold": "fold", "follow": "follow"}  # a store's folder → whose it is


def compact(home: Home = None) -> None:
    """Give the disk back what event log and stores no longer use, also while the system runs.

    Each stage lets go of its store for the time of a copy (a second or more for three million rows), then goes on in
    the new file; recommendations go on from the last version. Needs room for one copy at a time.
    """
    from commands.errors import CommandError, told_plainly
    from commands.settings import load_settings
    from state.compaction import compact as compact_store
    from state.store import StoreError
    from stream.loan import borrowed
    from stream.log import EventLog
    from stream.log_compaction import compact_log

    place = load_settings(home=home).home
    found = [path for path in (place / "learn", place / "fold", place / "follow", place / "log") if path.is_dir()]
    if not found:
        raise CommandError(f"{place} holds no event log and no stores yet: name another --home")
    for path in found:
        with told_plainly(StoreError), borrowed(path):
            if path.name == "log":
                log = EventLog(path)
                before, after = compact_log(log)
                log.close()
            else:
                before, after = compact_store(path, _STAGES[path.name])
        print(f"{path}: {_mib(before)} → {_mib(after)}", flush=True)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
