"""What processes cost, as the kernel counts it: CPU seconds and resident memory."""

import os
from collections.abc import Mapping

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads included."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        # The command's name may hold spaces and brackets; the fields start behind its last one.
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * _PAGE


def cpu_of(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds of each process by its name."""
    return {name: cpu_seconds(pid) for name, pid in pids.items()}
