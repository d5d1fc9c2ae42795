"""A domain's own PKI, bound by no constraint of ours, speaks for that domain and is nobody elsewhere."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio
import pytest

from telltale.errors import BatchRefused, Unauthenticated, Unavailable
from telltale.identity.credentials import Credentials
from telltale.identity.enrolment import AuthorityClient
from telltale.identity.workload import Workload
from telltale.rpc.auth import Authenticator
from telltale.rpc.client import call_metadata
from telltale.rpc.server import serving
from telltale.seal.verify import Verifier
from tests.support.batches import Chain, disk_usage
from tests.support.echo import HANDLERS, echo_server
from tests.support.foreign import ForeignPki
from tests.support.mesh import Mesh, MeshIssuer

AGENT = "spiffe://servers.telltale.test/agent/web1"
SERVICE = ("spiffe://servers.telltale.test/service", "service.servers.telltale.test")
GATEWAY = ("spiffe://platform.telltale.test/gateway", "gateway.platform.telltale.test")


@pytest.fixture
def pki() -> ForeignPki:
    return ForeignPki.make()


@pytest.fixture
def mesh(tmp_path: Path, pki: ForeignPki) -> Mesh:
    """The domain `servers` brings its PKI along; the others do not."""
    mesh = Mesh.create(tmp_path, "servers", "platform", "network")
    (mesh.home.trust / "servers.telltale.test.bundle.pem").write_bytes(pki.root_pem)
    return mesh


def workload(mesh: Mesh, credentials: Credentials) -> Workload:
    """With tokens for whatever its certificate says: here the certificate alone shall decide."""
    return Workload(credentials, mesh.trust, MeshIssuer(mesh))


@asynccontextmanager
async def impostor(mesh: Mesh, credentials: Credentials) -> AsyncIterator[str]:
    """A server that shows this certificate; yields its address."""
    me = workload(mesh, credentials)
    generic = grpc.method_handlers_generic_handler("echo", HANDLERS)
    async with serving(
        me,
        "127.0.0.1:0",
        Authenticator(me.trust, "servers.telltale.test"),
        lambda server: server.add_generic_rpc_handlers((generic,)),
    ) as port:
        yield f"127.0.0.1:{port}"


async def asks_who(who: Workload, address: str, server_name: str) -> str:
    async with who.channel(address, server_name) as channel:
        metadata = await call_metadata(who, "servers.telltale.test")
        answer = await channel.unary_unary("/echo/Who")(b"", metadata=metadata, timeout=10)
        return bytes(answer).decode()


async def test_its_agents_and_its_service_are_who_they_say(mesh: Mesh, pki: ForeignPki) -> None:
    agent, own = workload(mesh, pki.credentials(AGENT)), mesh.workload("servers", "/agent/web2")
    async with echo_server(mesh) as echo:
        assert AGENT in await asks_who(agent, echo.address, echo.server_name)
    # Its service takes those that enrolled, and they take it.
    async with impostor(mesh, pki.credentials(*SERVICE)) as address:
        assert "web2" in await asks_who(own, address, SERVICE[1])
        assert AGENT in await asks_who(agent, address, SERVICE[1])


@pytest.mark.parametrize(
    "names",
    [
        GATEWAY,
        ("spiffe://network.telltale.test/agent/r1",),
        ("spiffe://network.telltale.test/service", "service.network.telltale.test"),
        ("spiffe://servers.telltale.test/agent/web1", "spiffe://platform.telltale.test/gateway"),
        ("spiffe://evil.example/agent/web1",),
    ],
)
async def test_a_server_takes_nobody_of_another_domain_from_it(
    mesh: Mesh, pki: ForeignPki, names: tuple[str, ...]
) -> None:
    bearer = await mesh.workload("servers", "/agent/web2").token("servers.telltale.test")
    async with echo_server(mesh) as echo:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await echo.call(pki.credentials(*names), authorization=f"Bearer {bearer}")
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    # For the certificate, before anybody looks at the token.
    said = str(refused.value.details())
    assert "certificate does not hold" in said or "URI names" in said or "no trust domain of the mesh" in said


@pytest.mark.parametrize("names", [GATEWAY, (AGENT, GATEWAY[1]), (SERVICE[0], SERVICE[1], GATEWAY[1])])
async def test_a_client_takes_no_server_of_another_domain_from_it(
    mesh: Mesh, pki: ForeignPki, names: tuple[str, ...]
) -> None:
    agent = mesh.workload("servers", "/agent/web2")
    async with impostor(mesh, pki.credentials(*names)) as address:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asks_who(agent, address, GATEWAY[1])
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "certificate verify failed" in str(refused.value.details()).lower().replace("_", " ")


async def test_the_authority_of_its_own_domain_is_the_meshs_alone(mesh: Mesh, pki: ForeignPki) -> None:
    names = ("spiffe://servers.telltale.test/authority", "authority.servers.telltale.test")
    async with impostor(mesh, pki.credentials(*names)) as address:
        client = AuthorityClient(mesh.trust, address, address)
        with pytest.raises(Unavailable, match="not the one expected"):
            await client.token(mesh.credentials("servers", "/agent/web2"), ["servers.telltale.test"])


def test_batches_of_its_agents_hold_and_those_in_the_name_of_others_do_not(
    mesh: Mesh, pki: ForeignPki
) -> None:
    verifier = Verifier(mesh.trust)
    honest = Chain(pki.credentials(AGENT))
    verifier.learn(honest.credentials.certificates)
    header = verifier.verify(honest.next([disk_usage("/")]), datetime.now(UTC))
    assert header.source == AGENT
    assert verifier.certificates_of(header) == honest.credentials.certificates
    for name in ("spiffe://platform.telltale.test/gateway", "spiffe://network.telltale.test/agent/r1"):
        forged = Chain(pki.credentials(name))
        verifier.learn(forged.credentials.certificates)
        with pytest.raises(BatchRefused, match="does not hold"):
            verifier.verify(forged.next([disk_usage("/")]), datetime.now(UTC))


def test_its_intermediates_do_not_crowd_out_another_domains_authority(mesh: Mesh, pki: ForeignPki) -> None:
    """It may give its authorities any names, those of the mesh's own too."""
    verifier = Verifier(mesh.trust)
    agent = Chain(mesh.credentials("network", "/agent/r1"))
    verifier.learn(agent.credentials.certificates)
    for _ in range(40):
        lookalike = pki.another(agent.credentials.leaf.issuer)
        verifier.learn(lookalike.credentials(AGENT).certificates)
    verifier.verify(agent.next([disk_usage("/")]), datetime.now(UTC))


async def test_without_its_bundle_it_is_nobody_and_with_it_somebody_at_once(
    tmp_path: Path, pki: ForeignPki
) -> None:
    mesh = Mesh.create(tmp_path, "servers")
    credentials = pki.credentials(AGENT)
    leaf, *issuers = credentials.certificates
    trust = mesh.trust
    with pytest.raises(Unauthenticated):
        trust.identify(leaf, issuers, datetime.now(UTC))
    bundle = mesh.home.trust / "servers.telltale.test.bundle.pem"
    bundle.write_bytes(pki.root_pem)
    assert await asyncio.to_thread(trust.refresh)
    assert str(trust.identify(leaf, issuers, datetime.now(UTC))) == AGENT
    bundle.unlink()
    assert trust.refresh()
    with pytest.raises(Unauthenticated):
        trust.identify(leaf, issuers, datetime.now(UTC))
