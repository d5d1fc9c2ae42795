"""`servers.memory`: memory and swap, from /proc/meminfo and /proc/vmstat."""

from collections.abc import Iterator
from datetime import timedelta

from agent.collectors import Collector, Host, timestamp
from telltale.api.servers.v1.memory_pb2 import MemoryRecord

VMSTAT = {
    "pswpin": "swapped_in_pages",
    "pswpout": "swapped_out_pages",
    "pgmajfault": "major_faults",
    "oom_kill": "out_of_memory_kills",
}


def parse_meminfo(text: str) -> dict[str, int]:
    """Bytes by name, from lines such as `MemTotal:  16316412 kB`; lines of another unit are left out."""
    values = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            values[name] = int(value[:-3]) * 1024
    return values


def parse_vmstat(text: str) -> dict[str, int]:
    """The counters that the product has, by the name of its field; what the kernel lacks is left out."""
    counters = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in VMSTAT:
            counters[VMSTAT[name]] = int(value)
    return counters


class Memory(Collector):
    """The memory of the whole host."""

    product = "servers.memory"
    interval = timedelta(seconds=10)

    def __init__(self, host: Host) -> None:
        self._meminfo = host.proc / "meminfo"
        self._vmstat = host.proc / "vmstat"

    def collect(self) -> Iterator[MemoryRecord]:
        time = timestamp()
        memory = parse_meminfo(self._meminfo.read_text())
        total = memory["MemTotal"]
        # Kernels before 3.14 give no estimate of their own.
        available = memory.get("MemAvailable", memory["MemFree"] + memory["Cached"])
        yield MemoryRecord(
            time=time,
            total_bytes=total,
            available_bytes=available,
            used_bytes=max(total - available, 0),
            used_ratio=max(total - available, 0) / total,
            free_bytes=memory["MemFree"],
            buffers_bytes=memory["Buffers"],
            cached_bytes=memory["Cached"] + memory.get("SReclaimable", 0),
            shared_bytes=memory.get("Shmem", 0),
            dirty_bytes=memory["Dirty"],
            committed_bytes=memory["Committed_AS"],
            swap_total_bytes=memory["SwapTotal"],
            swap_used_bytes=memory["SwapTotal"] - memory["SwapFree"],
            **parse_vmstat(self._vmstat.read_text()),
        )
