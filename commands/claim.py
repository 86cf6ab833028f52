# One `runnel up` a home: the lock that says so, and the orphans of an earlier one that was killed.
from __future__ import annotations

import fcntl
import json
import os
import secrets
import sys
from dataclasses import asdict
from pathlib import Path

from commands.errors import CommandError
from commands.processes import ProcessNote, end_marked, end_processes, note_of, read_note


class Claim:
    """A home held by this process until `release` or death; `instance` marks all processes started under it.

    The lock file keeps the last holder's note. The kernel frees the lock when the holder dies, so a stale file never
    blocks, and its note tells whose orphans are to be ended: processes that carry that instance's mark, and those of
    the pid files whose start time still matches. Nobody else's are touched.
    """

    def __init__(self, home: Path) -> None:
        """Raises CommandError naming the pid where another process holds the home."""
        self.run_dir = home / "run"
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._path = self.run_dir / "up.lock"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        earlier = read_note(self._path)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            who = f"process {earlier.pid} ({earlier.command})" if earlier else "another process"
            raise CommandError(f"{home} is already run by {who}: stop it first, or give another --home") from None
        self.ended = self._end_orphans(earlier)  # pids of an earlier run's processes that were ended
        self.instance = secrets.token_hex(8)
        self._write(note_of(os.getpid(), " ".join(sys.argv), self.instance))

    def publish(self, url: str) -> None:
        """Tell other commands where the API is."""
        (self.run_dir / "url").write_text(url + "\n")

    def release(self) -> None:
        """Give the home back; idempotent."""
        if self._file >= 0:
            (self.run_dir / "url").unlink(missing_ok=True)
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = -1

    def _end_orphans(self, earlier: ProcessNote | None) -> list[int]:
        ended = end_marked(earlier.instance) if earlier and earlier.instance else []
        noted = []
        for path in self.run_dir.glob("*.pid"):
            note = read_note(path)
            process = note.process() if note else None
            if process is not None:
                noted.append(process)
            path.unlink(missing_ok=True)
        return ended + end_processes(noted)

    def _write(self, note: ProcessNote) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, (json.dumps(asdict(note)) + "\n").encode(), 0)


def holder(home: Path) -> ProcessNote | None:
    """The live `runnel up` of a home, or None."""
    note = read_note(home / "run" / "up.lock")
    return note if note is not None and note.process() is not None else None


def read_url(home: Path) -> str:
    """Where the API of the home's system is; CommandError where it is not up yet."""
    try:
        return (home / "run" / "url").read_text().strip()
    except FileNotFoundError:
        raise CommandError(f"the API of {home} is not up yet") from None
