"""The life of an identity against a real authority: joining, staying, coming back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc.aio
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from certs.ledger import Ledger
from certs.profiles import Profile
from certs.serve import AuthorityAddress, AuthoritySettings, serving_authority
from telltale.errors import ConfigurationError, InvalidInput, Unauthenticated
from telltale.identity.credentials import Credentials
from telltale.identity.keys import key_pem, load_key, write_secret
from telltale.identity.workload import Workload
from telltale.rpc.client import call_metadata
from telltale.settings import IdentitySettings
from tests.support.echo import echo_server
from tests.support.forgery import forged
from tests.support.mesh import Mesh

AGENT = "spiffe://servers.telltale.test/agent/web1"


@dataclass
class Site:
    """An authority that serves, and a host that may join."""

    mesh: Mesh
    settings: IdentitySettings

    @property
    def token_file(self) -> Path:
        return self.mesh.home.directory / "join-token"

    def invite(self, path: str = "/agent/web1") -> str:
        """Puts a fresh join token where the host looks for it."""
        ledger = Ledger(self.mesh.home.authority("servers"))
        token = str(ledger.grant(Profile(self.mesh.spiffe_id("servers", path))).token)
        self.token_file.write_text(f"{token}\n")
        return token


async def site(stack: AsyncExitStack, directory: Path, **lives: int) -> Site:
    mesh = Mesh.create(directory, "servers")
    address = AuthorityAddress(
        directory=mesh.home.authority("servers"), listen="127.0.0.1:0", enrollment="127.0.0.1:0"
    )
    ports = await stack.enter_async_context(
        serving_authority(address, AuthoritySettings(authorities=(address,), **lives))
    )
    settings = IdentitySettings(
        mesh=mesh.name,
        state=directory / "me",
        trust=mesh.home.trust,
        authority=f"127.0.0.1:{ports[0]}",
        enrollment=f"127.0.0.1:{ports[1]}",
        join_token_file=directory / "join-token",
    )
    return Site(mesh, settings)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        yield await site(stack, tmp_path)


async def test_a_host_joins_once_and_comes_back_without_a_token(here: Site) -> None:
    here.invite()
    async with Workload.open(here.settings) as me:
        assert str(me.spiffe_id) == AGENT
        first = me.credentials.thumbprint
    assert not here.token_file.exists()
    assert [entry.name for entry in here.settings.state.iterdir()] == ["identity.pem"]
    async with Workload.open(here.settings) as me:
        assert me.credentials.thumbprint == first


async def test_without_token_and_identity_it_says_what_is_missing(here: Site) -> None:
    with pytest.raises(ConfigurationError, match="TELLTALE_JOIN_TOKEN_FILE"):
        async with Workload.open(here.settings):
            pass
    here.token_file.write_text("rubbish")
    with pytest.raises(InvalidInput, match="no join token"):
        async with Workload.open(here.settings):
            pass


async def test_a_used_token_is_refused_with_what_to_do(here: Site) -> None:
    token = here.invite()
    async with Workload.open(here.settings):
        pass
    (here.settings.state / "identity.pem").unlink()
    here.token_file.write_text(token)
    with pytest.raises(Unauthenticated, match=r"cannot join as .*another key.*Ask for a new join token"):
        async with Workload.open(here.settings):
            pass


async def test_a_host_that_lost_the_answer_tries_again_with_the_same_key(here: Site) -> None:
    token = here.invite()
    async with Workload.open(here.settings) as me:
        key, first = key_pem(me.credentials.key), me.credentials.thumbprint
    # As after a crash between the authority's answer and the file: the key was written before it was sent.
    (here.settings.state / "identity.pem").unlink()
    write_secret(here.settings.state / "enrolling.key", key)
    here.token_file.write_text(token)
    async with Workload.open(here.settings) as me:
        assert me.credentials.thumbprint == first


async def test_the_key_is_on_disk_before_it_is_sent(here: Site) -> None:
    here.token_file.write_text("join-unknown@servers.telltale.test/agent/web1")
    with pytest.raises(Unauthenticated):
        async with Workload.open(here.settings):
            pass
    assert load_key(here.settings.state / "enrolling.key")


async def test_an_expired_host_enrols_again(here: Site) -> None:
    hour = timedelta(hours=1)
    forged(here.mesh, "servers", AGENT, start=-2 * hour, end=-hour).save(here.settings.state)
    with pytest.raises(Unauthenticated, match="expired at"):
        async with Workload.open(here.settings):
            pass
    here.invite()
    async with Workload.open(here.settings) as me:
        me.credentials.check()


async def test_a_token_for_another_name_makes_the_directory_somebody_else(here: Site) -> None:
    here.invite()
    async with Workload.open(here.settings):
        pass
    here.invite("/agent/web2")
    async with Workload.open(here.settings) as me:
        assert me.spiffe_id.path == "/agent/web2"


async def test_a_host_waits_for_an_authority_that_is_not_up_yet(here: Site, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        late = await site(stack, tmp_path / "late")
        address = late.settings.enrollment
    late.invite()

    async def join() -> str:
        async with Workload.open(late.settings) as me:
            return str(me.spiffe_id)

    joining = asyncio.create_task(join())
    directory = late.mesh.home.authority("servers")
    again = AuthorityAddress(directory=directory, listen=late.settings.authority, enrollment=address)
    async with serving_authority(again, AuthoritySettings(authorities=(again,))):
        assert await joining == AGENT


async def test_tokens_are_kept_per_audience_and_fetched_once(here: Site) -> None:
    here.invite()
    async with Workload.open(here.settings) as me:
        one, same = await asyncio.gather(me.token("servers.telltale.test"), me.token("servers.telltale.test"))
        both = await me.token("servers.telltale.test", "platform.telltale.test")
        assert one == same != both
        assert await me.token("platform.telltale.test", "servers.telltale.test") == both


async def test_certificates_renew_without_a_dropped_stream_and_channels_follow(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        brief = await site(stack, tmp_path, leaf_seconds=3)
        echo = await stack.enter_async_context(echo_server(brief.mesh))
        brief.invite()
        me = await stack.enter_async_context(Workload.open(brief.settings))
        channel = await stack.enter_async_context(me.channel(echo.address, echo.server_name))
        first = me.credentials
        stream = channel.stream_stream("/echo/Echo")(metadata=await call_metadata(me, echo.audience))
        await stream.write(b"before")
        assert await stream.read() == b"before"

        async with asyncio.timeout(20):
            while me.credentials is first:
                await stream.write(b"meanwhile")
                assert await stream.read() == b"meanwhile"
        saved = Credentials.load(brief.settings.state)
        assert saved is not None and saved.thumbprint == me.credentials.thumbprint != first.thumbprint
        assert saved.key.public_key() != first.key.public_key()

        await stream.write(b"after")
        assert await stream.read() == b"after"
        metadata = await call_metadata(me, echo.audience)
        assert b"web1" in await channel.unary_unary("/echo/Who")(b"", metadata=metadata)


async def test_a_server_shows_its_renewed_certificate_to_new_connections(tmp_path: Path) -> None:
    mesh = Mesh.create(tmp_path, "servers")
    name = mesh.server_name("service", "servers")
    server = mesh.workload("servers", "/service", [name])
    # The certificate that the server starts with is from an authority that nobody here believes.
    stranger = Mesh.create(tmp_path / "other", "servers")
    renewed, server._credentials = server._credentials, stranger.credentials("servers", "/service", [name])
    agent = mesh.workload("servers", "/agent/web1")
    tls = server.server_credentials()
    server._credentials = renewed

    listening = grpc.aio.server()
    port = listening.add_secure_port("127.0.0.1:0", tls)
    await listening.start()
    async with agent.channel(f"127.0.0.1:{port}", name) as channel:
        await asyncio.wait_for(channel.channel_ready(), 10)
    await listening.stop(0)


def test_signatures_are_of_the_present_key(tmp_path: Path) -> None:
    me = Mesh.create(tmp_path, "servers").workload("servers", "/agent/web1")
    public_key = me.credentials.leaf.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    public_key.verify(me.sign(b"data"), b"data", ec.ECDSA(hashes.SHA256()))
