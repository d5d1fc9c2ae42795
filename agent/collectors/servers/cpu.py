"""`servers.cpu`: how processor time is spent, from /proc/stat and /proc/loadavg."""

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

from agent.collectors import Collector, Host, timestamp
from telltale.api.servers.v1.cpu_pb2 import CpuRecord

# The kernel counts in these, whatever its own tick is.
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
ALL = "all"


class CpuTimes(NamedTuple):
    """Ticks since boot in each mode. Time of guests is part of user and nice."""

    user: int
    nice: int
    system: int
    idle: int
    iowait: int
    irq: int
    softirq: int
    steal: int

    @property
    def busy(self) -> int:
        return sum(self) - self.idle - self.iowait


def parse_stat(text: str) -> dict[str, CpuTimes]:
    """Times by processor number, and their sum under `all`, from /proc/stat."""
    times = {}
    for line in text.splitlines():
        if not line.startswith("cpu"):
            break  # the processors come first; the interrupt line behind them can be long
        name, *ticks = line.split()
        # Kernels before 2.6.11 have no steal.
        fields = [int(tick) for tick in ticks[: len(CpuTimes._fields)]]
        fields += [0] * (len(CpuTimes._fields) - len(fields))
        times[name.removeprefix("cpu") or ALL] = CpuTimes(*fields)
    return times


def parse_loadavg(text: str) -> tuple[float, float, float]:
    """The load of 1, 5 and 15 minutes."""
    one, five, fifteen = text.split()[:3]
    return float(one), float(five), float(fifteen)


def busy_ratio(before: CpuTimes, now: CpuTimes) -> float | None:
    """Share of the time between two readings that was busy; None when no tick has passed."""
    elapsed = sum(now) - sum(before)
    if elapsed <= 0:
        return None
    # The kernel's idle and iowait may step back by a tick.
    return min(max((now.busy - before.busy) / elapsed, 0.0), 1.0)


class Cpu(Collector):
    """Every logical processor that is online, and their sum."""

    product = "servers.cpu"
    interval = timedelta(seconds=10)

    def __init__(self, host: Host) -> None:
        self._stat = host.proc / "stat"
        self._loadavg = host.proc / "loadavg"
        self._before: dict[str, CpuTimes] = {}

    def collect(self) -> Iterator[CpuRecord]:
        time = timestamp()
        times = parse_stat(self._stat.read_text())
        load = parse_loadavg(self._loadavg.read_text())
        before, self._before = self._before, times
        for cpu, ticks in times.items():
            record = CpuRecord(
                time=time,
                cpu=cpu,
                busy_ratio=busy_ratio(before[cpu], ticks) if cpu in before else None,
                user_seconds=ticks.user / TICKS_PER_SECOND,
                nice_seconds=ticks.nice / TICKS_PER_SECOND,
                system_seconds=ticks.system / TICKS_PER_SECOND,
                idle_seconds=ticks.idle / TICKS_PER_SECOND,
                iowait_seconds=ticks.iowait / TICKS_PER_SECOND,
                irq_seconds=ticks.irq / TICKS_PER_SECOND,
                softirq_seconds=ticks.softirq / TICKS_PER_SECOND,
                steal_seconds=ticks.steal / TICKS_PER_SECOND,
            )
            if cpu == ALL:
                record.load_1m, record.load_5m, record.load_15m = load
            yield record
