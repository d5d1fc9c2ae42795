"""What every process measures of itself: time, memory, open files, and how late its event loop runs."""

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

_PROC = Path("/proc/self")
_LAG_SECONDS = 0.5


class LoopLag:
    """How much later than asked the event loop woke up, at worst since the last look."""

    def __init__(self) -> None:
        self._worst = 0.0

    async def watch(self) -> None:
        """Measures until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_SECONDS
            await asyncio.sleep(_LAG_SECONDS)
            self._worst = max(self._worst, loop.time() - due)

    def take(self) -> float:
        """The worst in seconds; forgets it."""
        worst, self._worst = self._worst, 0.0
        return worst


@cache
def process_meters() -> tuple[InMemoryMetricReader, LoopLag]:
    """Makes this process's metrics readable, once: a process has one set of them, as it has one memory.

    Instruments that were made before count from here on.
    """
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
    lag = LoopLag()
    _register(lag)
    return reader, lag


def _register(lag: LoopLag) -> None:
    meter = metrics.get_meter("telltale.process")
    page = os.sysconf("SC_PAGE_SIZE")
    meter.create_observable_counter(
        "process.cpu.time",
        [_observe(time.process_time)],
        "s",
        "Processor time spent, in user and system mode.",
    )
    meter.create_observable_gauge(
        "process.memory.usage",
        [_observe(lambda: int((_PROC / "statm").read_text().split()[1]) * page)],
        "By",
        "Memory that is resident.",
    )
    meter.create_observable_gauge(
        "process.unix.file_descriptor.count",
        [_observe(lambda: len(os.listdir(_PROC / "fd")))],
        "{file_descriptor}",
        "Files and sockets that are open.",
    )
    meter.create_observable_gauge(
        "process.uptime", [_observe(uptime)], "s", "Time since the process started."
    )
    meter.create_observable_gauge(
        "telltale.event_loop.lag",
        [_observe(lag.take)],
        "s",
        "Worst delay of the event loop since the last point.",
    )


def uptime() -> float:
    """Seconds since this process started, as the kernel counts."""
    # The command in parentheses may hold blanks and parentheses itself.
    fields = (_PROC / "stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def _observe(read: Callable[[], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda options: [Observation(read())]
