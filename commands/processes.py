# Processes of one home: pid files with start times, the mark that all descendants carry, and ending what is left over.
from __future__ import annotations

import ctypes
import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

MARK = "_RUNNEL_MARK"  # environment variable "INSTANCE.CHILD" of every process that a `runnel up` started, Ray's too
_PR_SET_PDEATHSIG = 1
_SAME_START_SECONDS = 0.05  # psutil reads the start time in clock ticks of 10 ms


@dataclass(frozen=True)
class ProcessNote:
    """What a pid file holds; `started_at` (seconds since 1970) tells a process from a later one with the same pid."""

    pid: int
    started_at: float
    command: str
    instance: str = ""

    def process(self) -> psutil.Process | None:
        """The live process that this note is about, or None."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at) < _SAME_START_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def note_of(pid: int, command: str, instance: str = "") -> ProcessNote:
    """A note of a process that is alive now; psutil.NoSuchProcess where it is not."""
    return ProcessNote(pid, psutil.Process(pid).create_time(), command, instance)


def write_note(path: Path, note: ProcessNote) -> None:
    """Write a pid file at once or not at all."""
    draft = path.with_suffix(path.suffix + ".new")
    draft.write_text(json.dumps(asdict(note)) + "\n")
    draft.replace(path)


def read_note(path: Path) -> ProcessNote | None:
    """The note in a pid file; None where there is none or a crash left it empty."""
    try:
        fields = json.loads(path.read_text())
        return ProcessNote(int(fields["pid"]), float(fields["started_at"]), fields["command"], fields["instance"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def marked(mark: str) -> list[psutil.Process]:
    """Every live process, but this one, whose environment carries the mark INSTANCE.CHILD, or INSTANCE.anything."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and f"{process.environ().get(MARK, '')}.".startswith(f"{mark}."):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue  # gone meanwhile, or of another user: then it is not ours
    return found


def end_marked(mark: str, term_seconds: float = 3.0) -> list[int]:
    """End what carries the mark, and what that starts while it is being ended; returns the pids."""
    ended: list[int] = []
    while found := [process for process in marked(mark) if process.pid not in ended]:
        ended += end_processes(found, term_seconds)
    return ended


def end_processes(processes: list[psutil.Process], term_seconds: float = 3.0) -> list[int]:
    """SIGTERM, then SIGKILL to those that stay; returns the pids. psutil refuses a pid that a new process has now."""
    for process in processes:
        _send(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=term_seconds)
    for process in alive:
        _send(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=5.0)
    return [process.pid for process in processes]


def die_with(supervisor: int) -> None:
    """Make this process get SIGTERM when its supervisor dies (Linux), so that nobody is left writing alone.

    0 means that there is no supervisor. Must run before threads start.
    """
    if not supervisor:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != supervisor:  # it died before the line above
        os.kill(os.getpid(), signal.SIGTERM)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
