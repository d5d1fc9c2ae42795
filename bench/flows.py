"""Flows: datagrams of NetFlow v9 to a receiver's port, decoded, sealed and kept on disk, at a steady rate."""

import asyncio
import multiprocessing
import random
import socket
import struct
import tempfile
import time
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

from agent.collectors import Host
from agent.outlet import Outlet
from agent.receiver.flows.table import Allowlist
from agent.receiver.lane import PRODUCT, FlowLane
from agent.receiver.manifest import Address
from agent.receiver.ports import Ports
from bench.report import Figure, Section
from certs.home import Home
from certs.issuing import IssuingAuthority
from certs.profiles import Profile
from telltale import naming
from telltale.api.mesh.v1.batch_pb2 import Origin
from telltale.contract.image import own_image
from telltale.contract.product import contracts_in
from telltale.errors import Unavailable
from telltale.identity.credentials import Credentials
from telltale.identity.enrolment import IssuedToken
from telltale.identity.keys import new_key
from telltale.identity.trust import Trust
from telltale.identity.workload import Workload
from telltale.source.source import Source, SourceSettings

_MESH, _DOMAIN = "telltale.internal", "network"
_RATE = 100_000
_RECORDS = 28
_TICK_SECONDS = 0.02
# Addresses, times, bytes, packets, interfaces, ports, protocol, flags, TOS, AS numbers: as routers do.
_FIELDS = (
    (8, 4), (12, 4), (21, 4), (22, 4), (1, 4), (2, 4), (10, 4), (14, 4),
    (7, 2), (11, 2), (4, 1), (6, 1), (5, 1), (16, 4), (17, 4),
)  # fmt: skip
_NOBODY = "127.0.0.1:9"

METHOD = (
    f"One process sends NetFlow v9 to a port on loopback, {_RATE:,} flows a second, {_RECORDS} a datagram,"
    " random values in 15 fields. The receiver's own code reads, decodes, seals and appends to its spool,"
    " with fsync; nobody is there to push to. CPU is that of the receiver's whole process."
)


async def measure(seconds: float) -> Section:
    with tempfile.TemporaryDirectory() as directory:
        received, dropped, cpu = await _receive(Path(directory), seconds)
    figures = [
        Figure("flows decoded, sealed and kept", received / seconds, "flows/s", f"{_RATE:,}"),
        Figure("what the kernel dropped", dropped, "datagrams", "0"),
        Figure("CPU of the receiver", cpu / max(received, 1) * 1e6, "us/flow", "below 10"),
        Figure("flows for a core", received / cpu, "flows/s", f"{_RATE:,}"),
    ]
    return Section("flows", METHOD, figures)


async def _receive(directory: Path, seconds: float) -> tuple[int, int, float]:
    """Flows received, datagrams dropped, and seconds of CPU."""
    contract = next(one for one in contracts_in(own_image(_DOMAIN)) if one.name == PRODUCT)
    trust_domain = naming.trust_domain(_DOMAIN, _MESH)
    settings = SourceSettings(
        directory / "spool.db", _NOBODY, trust_domain, 64 << 30, origin=Origin.ORIGIN_OBSERVED
    )
    async with (
        Source(_identity(directory / "mesh"), settings, own_image(_DOMAIN)) as source,
        Ports([Address("127.0.0.1", 0)]) as ports,
    ):
        host, allowed = Host(), [Allowlist([ip_network("127.0.0.0/8")])]
        lane = FlowLane(ports, allowed, contract, Outlet(contract, source), host, directory)
        running = asyncio.create_task(lane.run())
        # Not forked: this process has threads.
        sender = multiprocessing.get_context("spawn").Process(
            target=_send, args=(ports.addresses[0], seconds)
        )
        began = time.process_time()
        sender.start()
        await asyncio.to_thread(sender.join)
        dropped = sum(count for _, count in ports.take_dropped())
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        dropped += sum(row.lost_datagrams for row in lane.exporters())
        return source.records_published, dropped, time.process_time() - began


def _identity(home: Path) -> Workload:
    made = Home(home)
    made.init(_MESH, [_DOMAIN])
    authority = IssuingAuthority.load(made.authority(_DOMAIN))
    key = new_key()
    profile = Profile(naming.SpiffeId(naming.trust_domain(_DOMAIN, _MESH), "/receiver/bench"))
    credentials = Credentials(key, authority.issue(profile, key.public_key()))
    return Workload(credentials, Trust.load(made.trust, _MESH), _NoIssuer())


class _NoIssuer:
    """Nobody is asked for tokens: nothing is pushed."""

    async def renew(self, credentials: Credentials) -> Credentials:
        return credentials

    async def token(self, credentials: Credentials, audiences: Sequence[str]) -> IssuedToken:
        raise Unavailable("nothing is pushed here")


def _send(address: Address, seconds: float) -> None:
    """Sends at the rate, on a schedule that does not slip."""
    template = struct.pack("!HHHH", 0, 8 + 4 * len(_FIELDS), 256, len(_FIELDS))
    template += b"".join(struct.pack("!HH", *field) for field in _FIELDS)
    size = _RECORDS * sum(length for _, length in _FIELDS)
    chance = random.Random(7)  # noqa: S311 -- load, not a secret
    bodies = [struct.pack("!HH", 256, 4 + size) + chance.randbytes(size) for _ in range(64)]
    a_tick = _RATE * _TICK_SECONDS / _RECORDS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        start, sent = time.monotonic(), 0
        while (passed := time.monotonic() - start) < seconds:
            while sent < (passed / _TICK_SECONDS + 1) * a_tick:
                body = bodies[sent % len(bodies)] if sent else template
                head = struct.pack("!HHIIII", 9, _RECORDS, 2**31, int(time.time()), sent, 1)
                sender.sendto(head + body, tuple(address))
                sent += 1
            time.sleep(_TICK_SECONDS)
