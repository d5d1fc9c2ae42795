"""One measured stretch of time: what was counted and what each process cost in it."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from bench.counters import Reading
from bench.mesh import RunningMesh
from bench.report import Figure
from bench.usage import cpu_of

# Caches fill, connections open their windows.
_WARM_SECONDS = 3.0


@dataclass(frozen=True)
class Window:
    """cpu: seconds of CPU that each process used. counted: what each source or subscriber counted.
    grown: how much each gauge grew."""

    seconds: float
    cpu: Mapping[str, float]
    counted: Mapping[str, Reading]
    grown: Mapping[str, float]

    def rate(self, *names: str) -> float:
        """Records a second of the slowest of these."""
        return min(self.counted[name].records for name in names) / self.seconds

    def costs(self, records: float, prefix: str = "") -> list[Figure]:
        """CPU of each process, and of all, for a million records. prefix: of the figures' names."""
        each = [
            Figure(f"{prefix}CPU of {name}", used / records * 1e6, "s per million records")
            for name, used in sorted(self.cpu.items())
        ]
        return [
            *each,
            Figure(f"{prefix}CPU of all", sum(self.cpu.values()) / records * 1e6, "s per million records"),
        ]


async def measured(
    mesh: RunningMesh, seconds: float, *names: str, gauges: Mapping[str, Callable[[], float]] | None = None
) -> Window:
    """Measures for so many seconds once all of these count; raises RuntimeError when any was refused."""
    with ExitStack() as files:
        counters = {name: files.enter_context(mesh.counters(name)) for name in names}
        await mesh.until(
            f"{', '.join(names)} count", lambda: all(one.read().records for one in counters.values())
        )
        await asyncio.sleep(min(_WARM_SECONDS, seconds))
        pids, looks = mesh.pids(), gauges or {}
        grown = {name: -look() for name, look in looks.items()}
        before, cpu_before = {name: one.read() for name, one in counters.items()}, cpu_of(pids)
        start = time.monotonic()
        await asyncio.sleep(seconds)
        mesh.check()
        took = time.monotonic() - start
        counted = {name: one.read().since(before[name]) for name, one in counters.items()}
        grown = {name: negative + looks[name]() for name, negative in grown.items()}
        cpu = {name: used - cpu_before[name] for name, used in cpu_of(pids).items()}
    for name, reading in counted.items():
        if reading.refused:
            raise RuntimeError(f"{name}: {reading.refused} batches were refused or missing")
    return Window(took, cpu, counted, grown)
