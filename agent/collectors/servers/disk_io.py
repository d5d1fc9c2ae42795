"""`servers.disk_io`: what every whole disk does, from /proc/diskstats."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

from agent.collectors import Collector, Host, timestamp
from telltale.api.servers.v1.disk_io_pb2 import DiskIoRecord

# The kernel counts in these, whatever the disk's own sector is.
SECTOR_BYTES = 512
# Devices that only pass on what another device does, or that live in memory; shown once they were used.
QUIET_UNTIL_USED = ("loop", "ram", "zram", "nbd", "fd", "sr")


class DiskStats(NamedTuple):
    """One device. Sectors and milliseconds as the kernel has them; None where it is too old to count."""

    device: str
    reads: int
    sectors_read: int
    read_ms: int
    writes: int
    sectors_written: int
    write_ms: int
    in_flight: int
    io_ms: int
    sectors_discarded: int | None
    flushes: int | None


def parse_diskstats(text: str) -> Iterator[DiskStats]:
    """Every block device of /proc/diskstats, partitions included."""
    for line in text.splitlines():
        _major, _minor, device, *columns = line.split()
        value = [int(column) for column in columns]
        yield DiskStats(
            device=device,
            reads=value[0],
            sectors_read=value[2],
            read_ms=value[3],
            writes=value[4],
            sectors_written=value[6],
            write_ms=value[7],
            in_flight=value[8],
            io_ms=value[9],
            sectors_discarded=value[13] if len(value) > 13 else None,
            flushes=value[15] if len(value) > 15 else None,
        )


class DiskIo(Collector):
    """Every disk that the kernel lists in /sys/block; partitions are part of theirs."""

    product = "servers.disk_io"
    interval = timedelta(seconds=10)

    def __init__(self, host: Host) -> None:
        self._diskstats = host.proc / "diskstats"
        self._disks = host.sys / "block"
        self._before: dict[str, int] = {}
        self._before_at = 0.0

    def collect(self) -> Iterator[DiskIoRecord]:
        at, moment = time.monotonic(), timestamp()
        elapsed_ms = (at - self._before_at) * 1000
        before, self._before, self._before_at = self._before, {}, at
        # In /sys a slash of a device's name is an exclamation mark.
        whole = {path.name.replace("!", "/") for path in self._disks.iterdir()}
        for disk in parse_diskstats(self._diskstats.read_text()):
            if disk.device not in whole:
                continue
            if disk.device.startswith(QUIET_UNTIL_USED) and not disk.reads + disk.writes:
                continue
            self._before[disk.device] = disk.io_ms
            busy = None
            if disk.device in before and elapsed_ms > 0:
                busy = min(max((disk.io_ms - before[disk.device]) / elapsed_ms, 0.0), 1.0)
            yield DiskIoRecord(
                time=moment,
                device=disk.device,
                read_operations=disk.reads,
                read_bytes=disk.sectors_read * SECTOR_BYTES,
                read_seconds=disk.read_ms / 1000,
                write_operations=disk.writes,
                write_bytes=disk.sectors_written * SECTOR_BYTES,
                write_seconds=disk.write_ms / 1000,
                io_seconds=disk.io_ms / 1000,
                busy_ratio=busy,
                requests_in_flight=disk.in_flight,
                discard_bytes=None
                if disk.sectors_discarded is None
                else disk.sectors_discarded * SECTOR_BYTES,
                flush_operations=disk.flushes,
            )
