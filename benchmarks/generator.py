# A generator of load as a process of its own: it prepares, says so, waits for a line, runs, and tells its result.
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Result = TypeVar("_Result", bound="DataclassInstance")


class Generator(Generic[_Result]):
    """`python -m MODULE --KEY=VALUE …`, prepared when this is made, going from `start` on."""

    def __init__(self, module: str, options: Mapping[str, object], result: type[_Result]) -> None:
        command = [sys.executable, "-m", module, *_flags(options)]
        self._module, self._result = module, result
        # A session of its own: Ctrl-C is the benchmark's alone.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._line()  # it says that it is ready

    def start(self) -> None:
        """Let it go."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def result(self) -> _Result:
        """Wait for its end."""
        return self._result(**json.loads(self._line()))

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._module} ended with {self._process.wait()}")
        return line


def generate(run: Callable[[], DataclassInstance]) -> None:
    """The process's own side, once it has prepared."""
    go_first()
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(asdict(run())), flush=True)


def go_first() -> None:
    """Run this process ahead of all others on the machine where that is allowed (root): clients have cores of their
    own. Without this a flood was stopped for up to a second after it had woken the service, and counted that as the
    service's latency."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def _flags(options: Mapping[str, object]) -> Sequence[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
