"""A domain service on the real wire, its sources and its readers, for tests."""

import contextlib
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from grpc import aio

from telltale.contract.image import Image
from telltale.domain.service import Domain, DomainSettings, serving_domain
from telltale.identity.workload import Workload
from telltale.rpc.client import call_metadata
from telltale.source.source import Source, SourceSettings
from tests.support.batches import SERVERS
from tests.support.mesh import Mesh

ROOT = Path(__file__).parents[2]
DOMAINS = ("servers", "platform", "analysis", "operators")


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port that nobody listens on, of those that the kernel gives to no outgoing connection meanwhile."""
    for port in random.sample(range(10_000, 20_000), 100):
        with socket.socket(type=kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port between 10000 and 20000")


class Running:
    """A domain service that serves, and how to reach it."""

    def __init__(self, mesh: Mesh, domain: Domain, name: str, address: str) -> None:
        self.mesh = mesh
        self.domain = domain
        self.name = name
        self.address = address

    @contextlib.asynccontextmanager
    async def channel(self, who: Workload) -> AsyncIterator[aio.Channel]:
        channel = who.channel(self.address, self.mesh.server_name("service", self.name))
        try:
            yield channel
        finally:
            await channel.close(None)

    async def metadata(self, who: Workload) -> tuple[tuple[str, str], ...]:
        return await call_metadata(who, self.mesh.trust_domain(self.name))

    @contextlib.asynccontextmanager
    async def source(
        self, who: Workload, path: Path, image: Image = SERVERS, max_bytes: int = 1 << 24
    ) -> AsyncIterator[Source]:
        settings = SourceSettings(path, self.address, self.mesh.trust_domain(self.name), max_bytes)
        async with Source(who, settings, image) as source:
            yield source


@contextlib.asynccontextmanager
async def running(
    mesh: Mesh, directory: Path, name: str = "servers", port: int = 0, platform: str = ""
) -> AsyncIterator[Running]:
    """Serves a domain with its own policy. Nothing listens where its gateway should be, nor, if no address
    is given, its platform."""
    port = port or free_port()
    nobody = f"127.0.0.1:{free_port()}"
    settings = DomainSettings(
        mesh=mesh.name,
        state=directory / name,
        trust=mesh.home.trust,
        authority=nobody,
        enrollment=nobody,
        listen=f"127.0.0.1:{port}",
        advertise=f"127.0.0.1:{port}",
        gateway=nobody,
        platform=platform or nobody,
    )
    me = mesh.workload(name, "/service", [mesh.server_name("service", name)])
    policy = ROOT / "services" / name / "policy.cedar"
    async with serving_domain(me, settings, name, policy) as domain:
        yield Running(mesh, domain, name, f"127.0.0.1:{port}")
