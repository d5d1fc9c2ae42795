"""Becomes another program, which the kernel kills when its parent dies: `leash.py PARENT PROGRAM ...`.

A program of its own, because the parent has threads: after a fork it must not run a line of its own code.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_CANNOT_EXECUTE = 126


def main(parent: int, command: list[str]) -> None:
    """Replaces this process by the command; the kernel keeps the bond across that."""
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        sys.exit("this kernel does not bind a process to its parent; the supervisor needs Linux")
    # The parent may have died before the bond was made.
    if os.getppid() != parent:
        sys.exit(1)
    try:
        os.execv(command[0], command)
    except OSError as refused:
        print(f"cannot run {command[0]}: {refused.strerror}", file=sys.stderr)
        sys.exit(_CANNOT_EXECUTE)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
