"""`servers.network_io`: what every network interface does, from /proc/net/dev and /sys/class/net."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from agent.collectors import Collector, Host, timestamp
from telltale.api.servers.v1.network_io_pb2 import NetworkIoRecord

BITS_PER_MEGABIT = 1_000_000


class InterfaceCounters(NamedTuple):
    """One line of /proc/net/dev, without what only old link layers had."""

    interface: str
    received_bytes: int
    received_packets: int
    received_errors: int
    received_dropped: int
    sent_bytes: int
    sent_packets: int
    sent_errors: int
    sent_dropped: int
    collisions: int


def parse_net_dev(text: str) -> Iterator[InterfaceCounters]:
    """Every interface of /proc/net/dev."""
    for line in text.splitlines()[2:]:
        # An alias has a colon in its own name, and old kernels put no space behind the last one.
        name, _, rest = line.rpartition(":")
        value = [int(column) for column in rest.split()]
        received, sent = value[:8], value[8:]
        yield InterfaceCounters(
            name.strip(),
            *(received[0], received[1], received[2], received[3]),
            *(sent[0], sent[1], sent[2], sent[3]),
            collisions=sent[5],
        )


def parse_speed(text: str) -> int | None:
    """Bits per second from /sys/class/net/*/speed; None when the link has negotiated none."""
    megabits = int(text)
    return megabits * BITS_PER_MEGABIT if 0 < megabits < 2**32 - 1 else None


class NetworkIo(Collector):
    """Every interface of the agent's network namespace."""

    product = "servers.network_io"
    interval = timedelta(seconds=10)

    def __init__(self, host: Host) -> None:
        self._net_dev = host.proc / "net" / "dev"
        self._interfaces = host.sys / "class" / "net"

    def collect(self) -> Iterator[NetworkIoRecord]:
        time = timestamp()
        for counters in parse_net_dev(self._net_dev.read_text()):
            properties = self._interfaces / counters.interface
            yield NetworkIoRecord(
                time=time,
                operational_state=_operational_state(properties),
                speed_bits_per_second=_speed(properties),
                **counters._asdict(),
            )


def _operational_state(properties: Path) -> str:
    try:
        return (properties / "operstate").read_text().strip()
    except OSError:  # the interface went away since its counters were read
        return ""


def _speed(properties: Path) -> int | None:
    try:
        return parse_speed((properties / "speed").read_text())
    except (OSError, ValueError):  # loopback and links that are down answer EINVAL
        return None
