# One service a home: the lock that says who serves it, and the end of what a killed one left running.
from __future__ import annotations

import fcntl
import os
from pathlib import Path

import psutil

_GRACE_SECONDS = 5.0


class HomeInUse(Exception):  # noqa: N818  named for what is so
    """Another process serves the home; names it."""


class ServiceClaim:
    """A home's HOME/run/serve.lock, held until `release` or the end of the process, however that comes."""

    def __init__(self, home: Path) -> None:
        """Raises HomeInUse naming the pid of the holder."""
        path = home / "run" / "serve.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._file, 32, 0).decode()
            os.close(self._file)
            raise HomeInUse(f"{home} is served by process {pid} already: stop it, or use another --home") from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let the next service in."""
        os.close(self._file)


def end_orphans(folder: Path) -> int:
    """Kill every process that works in a home's runtime folder; how many there were. Claim the home first.

    Nobody else's process has the folder in its command line or writes files in it: its name holds the user and a hash
    of the home. (Ray's own processes rename themselves, so that their command line and environment tell nothing.)
    """
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    num_ended = 0
    while found := [each for each in psutil.process_iter() if each.pid not in spared and _works_in(each, folder)]:
        for process in found:
            _kill(process)
        psutil.wait_procs(found, timeout=_GRACE_SECONDS)
        spared |= {process.pid for process in found}  # the next look is for what they started meanwhile
        num_ended += len(found)
    return num_ended


def _works_in(process: psutil.Process, folder: Path) -> bool:
    prefix = f"{folder}/"
    try:
        if any(prefix in argument for argument in process.cmdline()):
            return True
        return any(file.path.startswith(prefix) and file.mode != "r" for file in process.open_files())
    except psutil.Error:
        return False


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
