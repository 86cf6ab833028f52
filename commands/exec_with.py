# Becomes another program, one that ends with the process that supervises it.
"""`python -m commands.exec_with PID PROGRAM ARGUMENT…`: for programs that are not ours and do not look after that."""

from __future__ import annotations

import os
import sys

from commands.processes import die_with


def main() -> None:
    """Tie this process to the supervisor, and hand it over."""
    supervisor, program, *arguments = sys.argv[1:]
    die_with(int(supervisor))  # outlives the change of programs
    os.execv(program, [program, *arguments])


if __name__ == "__main__":
    main()
