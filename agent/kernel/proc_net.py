"""The TCP sockets in `/proc/net/tcp` and `tcp6`, for kernels without socket diagnosis."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from agent.kernel.sock_diag import Socket, address_text


def tcp_sockets(proc: Path) -> Iterator[Socket]:
    """Every TCP socket that a process holds; raises OSError when not even this file can be read."""
    yield from parse_tcp((proc / "net" / "tcp").read_text())
    six = proc / "net" / "tcp6"
    if six.exists():
        yield from parse_tcp(six.read_text())


def parse_tcp(text: str) -> Iterator[Socket]:
    """Reads one table. The inode serves as the cookie; what has none is left out."""
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[9] == "0":
            continue
        local_address, local_port = _end(fields[1])
        remote_address, remote_port = _end(fields[2])
        inode = int(fields[9])
        yield Socket(
            state=int(fields[3], 16),
            local_address=local_address,
            local_port=local_port,
            remote_address=remote_address,
            remote_port=remote_port,
            cookie=inode,
            account_id=int(fields[7]),
            inode=inode,
        )


def _end(text: str) -> tuple[str, int]:
    """An address and port; the address is printed word by word in the host's byte order."""
    address, _, port = text.partition(":")
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return address_text(family, struct.pack(f"={len(words)}I", *words)), int(port, 16)
