"""`servers.listeners`: the open ports, from /proc/net, and who holds them."""

import socket
import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import NamedTuple

from agent.collectors import Collector, Host, timestamp
from agent.host.listener_owners import ListenerOwners
from agent.host.local_accounts import AccountNames
from agent.kernel.sock_diag import address_text
from telltale.api.servers.v1.listeners_pb2 import ListenersRecord

# States in /proc/net, by the kernel's numbering of TCP states; UDP uses CLOSE for a socket without a peer.
TCP_LISTEN = "0A"
UDP_WITHOUT_PEER = "07"


class Socket(NamedTuple):
    """One socket that takes what comes."""

    transport: str
    address: str
    port: int
    account_id: int
    inode: int


def parse_address(text: str) -> tuple[str, int]:
    """Address and port from `0100007F:1F90`: 32-bit words as the machine holds them, then the port."""
    words, _, port = text.partition(":")
    packed = b"".join(
        int(words[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(words), 8)
    )
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return address_text(family, packed), int(port, 16)


def parse_sockets(transport: str, lines: Iterable[str]) -> Iterator[Socket]:
    """The sockets of /proc/net/tcp, tcp6, udp or udp6 that take what comes."""
    wanted = TCP_LISTEN if transport == "tcp" else UDP_WITHOUT_PEER
    rows = iter(lines)
    next(rows, None)
    for line in rows:
        fields = line.split()
        if fields[3] == wanted:
            yield Socket(transport, *parse_address(fields[1]), int(fields[7]), int(fields[9]))
        elif transport == "tcp":
            # The kernel lists listeners first; behind them may be a hundred thousand connections.
            return


class Listeners(Collector):
    """Every listening TCP socket and every UDP socket without a peer, of the agent's network namespace."""

    product = "servers.listeners"
    interval = timedelta(seconds=15)

    def __init__(self, host: Host) -> None:
        self._net = host.proc / "net"
        self._owners = ListenerOwners(host.proc)
        self._account_name = AccountNames(host.etc)

    def collect(self) -> Iterator[ListenersRecord]:
        time = timestamp()
        sockets = [found for name in ("tcp", "tcp6", "udp", "udp6") for found in self._sockets(name)]
        owners = self._owners.find({found.inode for found in sockets})
        self.limited = self._owners.limited
        for found in sockets:
            owner = owners.get(found.inode)
            yield ListenersRecord(
                time=time,
                transport=found.transport,
                address=found.address,
                port=found.port,
                process_id=owner.process_id if owner else 0,
                process=owner.name if owner else "",
                executable=owner.executable if owner else "",
                account=self._account_name(owner.account_id if owner else found.account_id),
            )

    def _sockets(self, name: str) -> list[Socket]:
        try:
            with (self._net / name).open() as lines:
                return list(parse_sockets(name.removesuffix("6"), lines))
        except FileNotFoundError:  # a kernel without IPv6
            return []
