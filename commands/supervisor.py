# Starts child processes, restarts one that dies, and leaves none behind.
from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from commands.errors import CommandError
from commands.processes import MARK, end_marked, end_processes, note_of, write_note

WRONG_USE = (
    2  # exit code of a child that was started wrongly (a setting, a store of another format): a restart is no cure
)
_LOG_LIMIT_BYTES = 10_000_000


@dataclass(frozen=True)
class SupervisorConfig:
    """Back-off of restarts and patience at the end, all in seconds."""

    first_backoff: float = 0.2
    longest_backoff: float = 10.0
    calm_after: float = 30.0  # a child that lived this long starts again from the first back-off
    stop_patience: float = 15.0


@dataclass
class _Child:
    name: str
    command: Sequence[str]
    is_last: bool = False  # the others need it while they stop
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    backoff: float = 0.0
    start_again: float = 0.0
    restarts: int = 0


class Supervisor:
    """Children by name, each in its own process group, with its output in RUN_DIR/NAME.log and its pid in NAME.pid.

    Not a thread: the owner calls `poll` a few times a second. Times are monotonic seconds.
    """

    def __init__(
        self, run_dir: Path, instance: str, say: Callable[[str], None], config: SupervisorConfig | None = None
    ) -> None:
        self._run_dir, self._instance, self._say = run_dir, instance, say
        self._config = config or SupervisorConfig()
        self._children: dict[str, _Child] = {}

    def start(self, name: str, command: Sequence[str], now: float, is_last: bool = False) -> None:
        """Start a child and keep it running; one that is last is stopped when all others have ended."""
        child = self._children[name] = _Child(name, command, is_last)
        self._launch(child, now)

    def poll(self, now: float) -> None:
        """Restart children that died, each after its back-off; CommandError where one says it was started wrongly."""
        for child in self._children.values():
            if child.process is None:
                if now >= child.start_again:
                    self._launch_again(child, now)
            elif child.process.poll() is not None:
                self._note_death(child, child.process.returncode, now)

    def stop(self) -> None:
        """SIGTERM to every child, patience, then SIGKILL to whatever carries the mark: no process is left."""
        for is_last in (False, True):
            children = [child.process for child in self._children.values() if child.is_last == is_last]
            running = [process for process in children if process is not None]
            processes = [psutil.Process(process.pid) for process in running if process.poll() is None]
            end_processes(processes, self._config.stop_patience)
            for process in running:
                process.wait()
        left = end_marked(self._instance, 1.0)
        if left:
            self._say(f"ended {len(left)} processes that were left over")
        for name in self._children:
            (self._run_dir / f"{name}.pid").unlink(missing_ok=True)
        self._children.clear()

    @property
    def restarts(self) -> dict[str, int]:
        """How often each child was restarted."""
        return {child.name: child.restarts for child in self._children.values()}

    def _launch(self, child: _Child, now: float) -> None:
        log = self._run_dir / f"{child.name}.log"
        if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            child.process = subprocess.Popen(
                list(child.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {MARK: f"{self._instance}.{child.name}"},
                start_new_session=True,  # the terminal's Ctrl-C reaches the supervisor alone
            )
        child.started = now
        write_note(self._run_dir / f"{child.name}.pid", note_of(child.process.pid, " ".join(child.command)))

    def _launch_again(self, child: _Child, now: float) -> None:
        try:
            self._launch(child, now)
        except OSError as error:  # a disk that takes nothing may do so again later
            if child.process is None:
                self._put_off(child, now)
                self._say(f"{child.name} cannot be started ({error}); trying again in {child.backoff:.1f} s")
        child.restarts += child.process is not None

    def _put_off(self, child: _Child, now: float, calm: bool = False) -> None:
        config = self._config
        child.backoff = config.first_backoff if calm else min(2 * child.backoff, config.longest_backoff)
        child.start_again = now + child.backoff

    def _note_death(self, child: _Child, code: int, now: float) -> None:
        ending = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        log = self._run_dir / f"{child.name}.log"
        if code == WRONG_USE:
            raise CommandError(f"{child.name} cannot run ({log}): {_last_line(log)}")
        child.process = None
        self._put_off(child, now, now - child.started >= self._config.calm_after or child.backoff == 0.0)
        end_marked(f"{self._instance}.{child.name}", 0.5)  # what it had started; Ray's hold ports
        self._say(f"{child.name} died ({ending}; see {log}); starting it again in {child.backoff:.1f} s")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
