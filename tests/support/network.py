"""A second network on this machine: a namespace behind a pair of virtual cables, gone when the test ends."""

import contextlib
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network

import psutil

# Networks that are nobody's (RFC 5737); some machines use one all the same.
_NETWORKS = ("198.51.100.0/30", "203.0.113.0/30", "192.0.2.0/30")


@dataclass(frozen=True)
class Elsewhere:
    """A network namespace, from which this machine is reached at `here` and nothing else is."""

    name: str
    # IPv4 addresses of both ends of the cable.
    here: str
    there: str

    def command(self, *words: str) -> list[str]:
        """The command, to be run there."""
        return [_ip(), "netns", "exec", self.name, *words]


@contextlib.contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    """Makes the namespace and takes it away. Only root may."""
    mark = secrets.token_hex(3)
    name, near, far = f"telltale-{mark}", f"tt{mark}a", f"tt{mark}b"
    here, there = (str(address) for address in _unused().hosts())
    _run("netns", "add", name)
    try:
        _run("link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        _run("address", "add", f"{here}/30", "dev", near)
        _run("link", "set", near, "up")
        _run("-n", name, "address", "add", f"{there}/30", "dev", far)
        _run("-n", name, "link", "set", far, "up")
        _run("-n", name, "link", "set", "lo", "up")
        yield Elsewhere(name, here, there)
    finally:
        # The cable goes with the namespace that holds one end of it.
        _run("netns", "delete", name)


def _unused() -> IPv4Network:
    """A network that no interface of this machine is in."""
    taken = [
        IPv4Interface(f"{address.address}/{address.netmask}").network
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and address.netmask
    ]
    for network in map(IPv4Network, _NETWORKS):
        if not any(network.overlaps(other) for other in taken):
            return network
    raise RuntimeError(f"this machine uses all of {', '.join(_NETWORKS)}")


def _ip() -> str:
    found = shutil.which("ip")
    if found is None:
        raise RuntimeError("there is no `ip`; install iproute2")
    return found


def _run(*words: str) -> None:
    subprocess.run([_ip(), *words], check=True, capture_output=True, timeout=30)
