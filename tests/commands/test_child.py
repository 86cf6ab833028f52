# What a process that is told to stop does when it is told so again and again.
from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress

CHILD = """
from time import sleep
from commands.child import begin

stop = begin("child", 0)
print("ready", flush=True)
while not stop.is_set():
    sleep(0.001)
"""


def test_signals_that_interrupt_each_other_stop_it_all_the_same() -> None:
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            with suppress(ProcessLookupError):
                for number in [signal.SIGTERM, signal.SIGINT] * 500:
                    process.send_signal(number)
            try:
                assert process.wait(20) == 0
            finally:
                process.kill()
