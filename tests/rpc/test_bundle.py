"""A changed trust bundle on a server: streams of whoever it vouches for no more end, all others go on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from telltale.identity.workload import Workload, follow
from telltale.rpc.client import call_metadata
from telltale.rpc.guard import Guard
from tests.rpc.test_distrust import end_of, opened, running
from tests.support.echo import Echo, echo_server
from tests.support.mesh import Mesh, MeshIssuer


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.create(tmp_path / "mesh", "servers", "platform")


@pytest.fixture
async def echo(mesh: Mesh) -> AsyncIterator[Echo]:
    """As every process does, it follows its bundle."""
    async with echo_server(mesh) as server:
        following = asyncio.create_task(follow(server.trust))
        yield server
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_streams_end_when_the_key_of_their_token_leaves_the_bundle(echo: Echo, mesh: Mesh) -> None:
    gone, other = mesh.workload("servers", "/agent/web1"), mesh.workload("platform", "/writer")
    async with echo.channel(gone) as channel, echo.channel(other) as untouched:
        call = opened(channel, "Waits", await call_metadata(gone, echo.audience))
        beside = opened(untouched, "Echo", await call_metadata(other, echo.audience))
        for stream in (call, beside):
            await running(stream)
        (mesh.home.trust / "servers.telltale.test.jwks.json").write_text('{"keys": []}')
        failed = await end_of(call)
        assert failed.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "key is not one of servers.telltale.test" in (failed.details() or "")
        await beside.write(b"still here")
        assert await beside.read() == b"still here"
        beside.cancel()


@pytest.mark.parametrize("method", ["Echo", "Writes", "Waits", "Floods"])
async def test_streams_end_when_the_root_of_their_certificate_leaves_the_bundle(
    tmp_path: Path, mesh: Mesh, method: str
) -> None:
    other = Mesh.create(tmp_path / "other", "servers", "platform")
    root, jwks = mesh.home.trust / "root.pem", "platform.telltale.test.jwks.json"
    before = root.read_bytes()
    root.write_bytes(before + other.trust.root_pem)
    # Its tokens go on holding: only the root will go.
    (mesh.home.trust / jwks).write_bytes((other.home.trust / jwks).read_bytes())
    gone = Workload(other.credentials("platform", "/writer"), mesh.trust, MeshIssuer(other))
    stays = mesh.workload("servers", "/agent/web1")
    async with echo_server(mesh) as echo, echo.channel(gone) as channel, echo.channel(stays) as untouched:
        call = opened(channel, method, await call_metadata(gone, echo.audience))
        beside = opened(untouched, "Echo", await call_metadata(stays, echo.audience))
        for stream in (call, beside):
            await running(stream)
        root.write_bytes(before)
        # In a thread, as it is read in a running process.
        assert await asyncio.to_thread(echo.trust.refresh)
        failed = await end_of(call)
        assert failed.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "the certificate does not hold" in (failed.details() or "")
        await beside.write(b"still here")
        assert await beside.read() == b"still here"
        beside.cancel()


async def test_a_bundle_that_grows_ends_no_stream(tmp_path: Path, echo: Echo, mesh: Mesh) -> None:
    other = Mesh.create(tmp_path / "other", "servers")
    agent = mesh.workload("servers", "/agent/web1")
    async with echo.channel(agent) as channel:
        call = opened(channel, "Echo", await call_metadata(agent, echo.audience))
        await running(call)
        root = mesh.home.trust / "root.pem"
        root.write_bytes(root.read_bytes() + other.trust.root_pem)
        with echo.trust.listening() as changed:
            async with asyncio.timeout(20):
                await changed.wait()
        # Whoever was to be cut is cut by now: a new call has had its answer.
        assert "web1" in await echo.call(agent, authorization=f"Bearer {await agent.token(echo.audience)}")
        await call.write(b"still here")
        assert await call.read() == b"still here"
        call.cancel()


async def test_a_change_that_could_not_be_heeded_does_not_end_the_heeding(
    tmp_path: Path, echo: Echo, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Mesh.create(tmp_path / "other", "servers")
    agent = mesh.workload("servers", "/agent/web1")
    reconsider, failed = Guard.reconsider, asyncio.Event()

    async def fails_once(guard: Guard) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("nobody has thought of this")
        await reconsider(guard)

    monkeypatch.setattr(Guard, "reconsider", fails_once)
    async with echo.channel(agent) as channel:
        call = opened(channel, "Echo", await call_metadata(agent, echo.audience))
        await running(call)
        root = mesh.home.trust / "root.pem"
        root.write_bytes(root.read_bytes() + other.trust.root_pem)
        async with asyncio.timeout(20):
            await failed.wait()
        (mesh.home.trust / "servers.telltale.test.jwks.json").write_text('{"keys": []}')
        assert (await end_of(call)).code() is grpc.StatusCode.UNAUTHENTICATED
