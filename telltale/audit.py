"""A decision that some process of the mesh has made, and whoever keeps record of it."""

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Network
from typing import Protocol
from urllib.parse import unquote

_PEER = re.compile(r"ipv4:(?P<four>[^:]+)(:\d+)?|ipv6:\[?(?P<six>[^\]]*?)\]?(:\d+)?")


@dataclass(frozen=True)
class Decision:
    """Who may, or may not, do what, and why."""

    # What was asked for: a permission of a policy, or a step in the life of an identity.
    action: str
    allowed: bool
    # Whose rights counted. Of somebody without a certificate only what they claim, which may be nothing.
    principal: str
    # The rules that decided, or what was missing.
    reason: str
    # Data product that it was about; empty when it was about none.
    product: str = ""
    # Identity that it was about, such as the one that was invited; empty when it was about none.
    subject: str = ""
    # Who was on the wire, proven by a certificate; empty for a stranger.
    peer: str = ""
    # Where they called from, such as `192.0.2.1`; empty when nobody called. A peer as gRPC names it will do.
    address: str = ""
    # The rules of a policy that decided, by their `@id`; empty when no rule spoke, or none was asked.
    rules: tuple[str, ...] = ()
    # What kind of reason it is, in words of this program, where the reason quotes the caller: decisions that
    # differ only in what a caller wrote are the same. Empty where the reason itself is such words.
    kind: str = ""


class Auditor(Protocol):
    """Keeps record of decisions. Never waits and never raises: work goes on, whatever becomes of it."""

    def record(self, decision: Decision) -> None: ...


class Unrecorded:
    """Forgets decisions: for programs that decide nothing on anybody else's behalf."""

    def record(self, decision: Decision) -> None:
        return


UNRECORDED = Unrecorded()


def place_of(peer: str) -> str:
    """The address of a peer as gRPC names it, without the port, which changes with every connection.

    `ipv4:192.0.2.1:4711` -> `192.0.2.1`; what names no address and port stays as it is.
    """
    found = _PEER.fullmatch(unquote(peer))
    return peer if found is None else found["four"] or found["six"]


# Those who knock knock often.
@lru_cache(maxsize=4096)
def neighbourhood_of(peer: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that one host of IPv6 has to itself."""
    address = place_of(peer)
    try:
        return str(IPv6Network(f"{address.partition('%')[0]}/64", strict=False))
    except ValueError:
        return address
