"""`servers.inventory`: what the host is, from os-release, /proc and its interfaces."""

import importlib.metadata
import ipaddress
import os
import shlex
import socket
from collections.abc import Iterator
from datetime import timedelta

import psutil
from google.protobuf.timestamp_pb2 import Timestamp

from agent.collectors import Collector, Host, timestamp
from agent.collectors.servers.memory import parse_meminfo
from telltale.api.servers.v1.inventory_pb2 import InventoryRecord

# The kernel computes the boot time from the clock, so it moves a little whenever the clock is set.
BOOT_TIME_TOLERANCE_SECONDS = 5


def parse_os_release(text: str) -> dict[str, str]:
    """The assignments of an os-release file (os-release(5)): shell syntax without expansion."""
    values = {}
    for line in text.splitlines():
        name, separator, value = line.strip().partition("=")
        if separator and not name.startswith("#"):
            values[name] = "".join(shlex.split(value))
    return values


def parse_cpu_model(text: str) -> str:
    """The processor's name from /proc/cpuinfo; empty where the architecture has none there."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "cpu model", "Processor", "cpu"):
            return value.strip()
    return ""


def parse_boot_time(text: str) -> int:
    """Unix seconds of the boot, from /proc/stat."""
    for line in text.splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    raise ValueError("/proc/stat has no btime")


def parse_cpu_list(text: str) -> int:
    """How many processors a list such as `0-3,8` names."""
    count = 0
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def public_addresses() -> list[str]:
    """Addresses of every interface, without loopback and link-local ones."""
    addresses = set()
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family in (socket.AF_INET, socket.AF_INET6):
                address = ipaddress.ip_address(entry.address.partition("%")[0])
                if not address.is_loopback and not address.is_link_local:
                    addresses.add(address)
    return [str(address) for address in sorted(addresses, key=lambda one: (one.version, int(one)))]


class Inventory(Collector):
    """The host that the agent runs on; one record."""

    product = "servers.inventory"
    interval = timedelta(seconds=300)

    def __init__(self, host: Host) -> None:
        self._host = host
        self._boot_seconds = 0

    def collect(self) -> Iterator[InventoryRecord]:
        host, uname = self._host, os.uname()
        release = parse_os_release(self._os_release())
        yield InventoryRecord(
            time=timestamp(),
            host_name=uname.nodename,
            host_id=self._machine_id(),
            os_name=release.get("NAME", uname.sysname),
            os_version=release.get("VERSION_ID", ""),
            kernel_release=uname.release,
            architecture=uname.machine,
            cpu_model=parse_cpu_model((host.proc / "cpuinfo").read_text()),
            cpu_count=parse_cpu_list((host.sys / "devices/system/cpu/online").read_text()),
            memory_bytes=parse_meminfo((host.proc / "meminfo").read_text())["MemTotal"],
            boot_time=self._boot_time(),
            addresses=public_addresses(),
            agent_version=importlib.metadata.version("telltale"),
        )

    def _boot_time(self) -> Timestamp:
        seconds = parse_boot_time((self._host.proc / "stat").read_text())
        if abs(seconds - self._boot_seconds) > BOOT_TIME_TOLERANCE_SECONDS:
            self._boot_seconds = seconds
        return Timestamp(seconds=self._boot_seconds)

    def _os_release(self) -> str:
        for path in (self._host.etc / "os-release", self._host.usr / "lib/os-release"):
            try:
                return path.read_text()
            except FileNotFoundError:
                continue
        return ""

    def _machine_id(self) -> str:
        try:
            return (self._host.etc / "machine-id").read_text().strip()
        except FileNotFoundError:  # an image that was never booted
            return ""
