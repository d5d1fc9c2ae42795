"""A real domain service behind the gateway, and its sources."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from telltale.domain.service import Domain, DomainSettings, serving_domain
from telltale.identity.workload import Workload
from telltale.source.source import Source, SourceSettings
from tests.gateway.wire import Gateway
from tests.support.batches import SERVERS
from tests.support.domain import ROOT, free_port
from tests.support.mesh import Mesh

POLICY = ROOT / "services/servers/policy.cedar"


@asynccontextmanager
async def servers(
    mesh: Mesh, gateway: Gateway, state: Path, port: int, policy: Path = POLICY
) -> AsyncIterator[Domain]:
    """The servers domain with its own policy or another, which takes its lease by itself."""
    nobody = f"127.0.0.1:{free_port()}"
    settings = DomainSettings(
        mesh=mesh.name,
        state=state,
        trust=mesh.home.trust,
        authority=nobody,
        enrollment=nobody,
        listen=f"127.0.0.1:{port}",
        advertise=f"localhost:{port}",
        gateway=f"127.0.0.1:{gateway.port}",
        platform=nobody,
    )
    me = mesh.workload("servers", "/service", [mesh.server_name("service", "servers")])
    async with serving_domain(me, settings, "servers", policy) as domain:
        yield domain


@asynccontextmanager
async def source(mesh: Mesh, agent: Workload, spool: Path, port: int) -> AsyncIterator[Source]:
    settings = SourceSettings(spool, f"127.0.0.1:{port}", mesh.trust_domain("servers"), 1 << 24)
    async with Source(agent, settings, SERVERS) as one:
        yield one
