"""Runs a program that ends with whoever started it, however that ends: `python mortal.py PARENT PROGRAM ARGUMENT…`.

A supervisor that is killed can stop nothing any more, and what it leaves keeps the devices and the port. Linux tells
a process of its parent's death (prctl(2), PR_SET_PDEATHSIG), and an exec keeps that. Elsewhere this only runs the
program.
Imports nothing that takes time: each start of the child waits for it.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> int:
    """Become the program; 127 when it cannot be run, as a shell says."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1  # It died before we asked to be told.
    try:
        os.execvp(command[0], command)  # noqa: S606  # the operator's own command
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201  # the supervisor reads it
        return 127


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
