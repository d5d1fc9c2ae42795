"""Which addresses the gateway dials: those in the configured networks, as they were when checked."""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_address

from gateway.settings import Network
from telltale.errors import InvalidInput, Unavailable


async def resolve(address: str, networks: Sequence[Network]) -> str:
    """The numeric `host:port` of an address; raises InvalidInput when any of its hosts is out of range.

    The answer is dialled from then on: a name that points elsewhere later leads nowhere else.
    """
    host, separator, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidInput(f"{address[:200]!r} is no address; expected host:port")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as unknown:
        raise Unavailable(f"the host of {address[:200]!r} cannot be resolved: {unknown}") from None
    hosts = [str(sockaddr[0]).partition("%")[0] for _, _, _, _, sockaddr in found]
    for one in hosts:
        if not any(ip_address(one) in network for network in networks):
            raise InvalidInput(
                f"{address[:200]!r} is {one}, outside the networks of domain services "
                f"({', '.join(map(str, networks))}); TELLTALE_DOMAIN_ADDRESSES of the gateway lists them"
            )
    return f"[{hosts[0]}]:{port}" if ":" in hosts[0] else f"{hosts[0]}:{port}"
