# Small processes that stand in for the stages where a test is about processes alone.
from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PATIENCE_SECONDS = 20.0

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
# Starts a sleeper in a session of its own, as Ray's processes are, and tells its pid.
PARENT_OF_SLEEPER = [
    sys.executable,
    "-c",
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(600)",
]
# Starts its like when it is told to end, as proxies do that are loaded anew, and that once more.
HEIRS = [
    sys.executable,
    "-c",
    "import signal, subprocess, sys\n"
    "def end(*_):\n"
    "    if int(sys.argv[1]):\n"
    "        heir = subprocess.Popen([*sys.orig_argv[:-1], str(int(sys.argv[1]) - 1)], stdout=subprocess.PIPE)\n"
    "        heir.stdout.readline()\n"
    "    sys.exit()\n"
    "signal.signal(signal.SIGTERM, end)\n"
    "print(1, flush=True)\n"
    "signal.pause()",
    "2",
]
# Holds a home and supervises one child, as `runnel up` does, until it is killed.
HOLDER_OF_HOME = """
import sys, time
from pathlib import Path
from commands.claim import Claim
from commands.supervisor import Supervisor
claim = Claim(Path(sys.argv[1]))
supervisor = Supervisor(claim.run_dir, claim.instance, print)
supervisor.start("stage", sys.argv[2:], time.monotonic())
print("holding", flush=True)
while True:
    supervisor.poll(time.monotonic())
    time.sleep(0.05)
"""


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return when the condition holds; fails naming what was waited for."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:.0f} s: {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def first_number(log: Path) -> int:
    """The number that a stand-in printed first, waited for."""
    wait_until(lambda: log.exists() and log.read_text().strip().isdigit(), f"a number in {log}")
    return int(log.read_text())
