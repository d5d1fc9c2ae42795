"""Fleets: what a domain service pays for 100, 1,000 and 10,000 connected agents, and for one more."""

import asyncio
import resource
from collections.abc import Sequence
from contextlib import AsyncExitStack

from bench.fleet import EVERY_SECONDS, RECORDS
from bench.forwarding import OWN
from bench.mesh import fleet, running
from bench.report import Figure, Section
from bench.usage import resident_bytes
from bench.window import measured

SIZES = (100, 1_000, 10_000)
# Files that a service has open beside its connections.
_OTHER_FILES = 500
_SERVICE = "servers"

METHOD = (
    f"Simulated agents, each with its own certificate, connection, token and push stream, and {RECORDS}"
    f" records every {EVERY_SECONDS:.0f} s. CPU and resident memory of the service process alone; one"
    " more: the difference to the size before, for each agent that joined."
)


async def measure(seconds: float, sizes: Sequence[int] = SIZES, every: float = EVERY_SECONDS) -> Section:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = [size for size in sizes if size + _OTHER_FILES <= limit]
    absent = [
        f"{size:,} agents: this shell allows {limit:,} open files; `ulimit -n {size * 2}`"
        for size in sizes
        if size not in possible
    ]
    figures: list[Figure] = []
    before = (0, 0.0, 0.0)
    joining = {
        f"fleet-{size}": size - smaller for smaller, size in zip((0, *possible), possible, strict=False)
    }
    async with (
        running(OWN, [fleet(name, count, every) for name, count in joining.items()]) as mesh,
        AsyncExitStack() as lives,
    ):
        service = mesh.pids()[_SERVICE]
        empty = resident_bytes(service)
        for size, (name, count) in zip(possible, joining.items(), strict=True):
            await lives.enter_async_context(mesh.running(name))
            counters = lives.enter_context(mesh.counters(name))
            # A handshake costs both ends about 5 ms; on a busy machine several times that.
            await mesh.until(
                f"{size} agents are connected",
                lambda: counters.read().connected >= count,  # noqa: B023 -- awaited before the next turn
                patience=60.0 + count * 0.1,
            )
            # All have told once, and tell in their own time from now on.
            await asyncio.sleep(every)
            window = await measured(mesh, max(seconds, every), *list(joining)[: possible.index(size) + 1])
            cpu, memory = window.cpu[_SERVICE] / window.seconds * 100, resident_bytes(service) - empty
            slowest = max(window.counted[one].percentile(0.99) or 0.0 for one in window.counted)
            agents, cpu_before, memory_before = before
            more = size - agents
            figures += [
                Figure(f"{size:,} agents: CPU of the service", cpu, "% of a core"),
                Figure(f"{size:,} agents: memory of the service", resident_bytes(service) / 2**20, "MiB"),
                Figure(f"{size:,} agents: sent to acked, p99", slowest, "s"),
                Figure(
                    f"one more, up to {size:,}: CPU", (cpu - cpu_before) / more * 10, "ms of CPU a second"
                ),
                Figure(f"one more, up to {size:,}: memory", (memory - memory_before) / more / 1024, "KiB"),
            ]
            before = (size, cpu, memory)
    return Section("fleets", METHOD, figures, absent)
