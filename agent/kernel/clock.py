"""The kernel's clocks as Unix time."""

import os
import time

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def unix_ns_of_monotonic(monotonic_ns: int) -> int:
    """Unix nanoseconds of a moment of the monotonic clock, by which the kernel stamps its events."""
    return time.time_ns() - time.monotonic_ns() + monotonic_ns


def unix_ns_of_ticks(start_ticks: int) -> int:
    """Unix nanoseconds of a moment in clock ticks since boot, by which `/proc` tells a process's start."""
    since_boot = start_ticks * 10**9 // TICKS_PER_SECOND
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) + since_boot
