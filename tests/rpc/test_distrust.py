"""A word of distrust on a server: calls and streams of whoever it is about end, all others go on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc.aio import EOF  # type: ignore[attr-defined]  # the stubs lack it

from telltale.errors import Unavailable
from telltale.rpc.auth import ON_BEHALF_OF
from telltale.rpc.client import call_metadata
from tests.support.echo import Echo, echo_server
from tests.support.mesh import Mesh
from tests.support.words import lift, say, word

PATIENCE_SECONDS = 30.0


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.create(tmp_path, "servers", "platform", "operators")


@pytest.fixture
async def echo(mesh: Mesh) -> AsyncIterator[Echo]:
    async with echo_server(mesh, frozenset({mesh.spiffe_id("platform", "/gateway")})) as server:
        yield server


async def end_of(call: Any) -> grpc.aio.AioRpcError:
    """The status of a stream, whatever still comes before it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            while await call.read() is not EOF:
                pass
    return failed.value


async def running(call: Any) -> None:
    """Returns when the handler of a stream has answered once."""
    if isinstance(call, grpc.aio.StreamStreamCall):
        await call.write(b"a")
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await call.read() == b"a"


def opened(channel: grpc.aio.Channel, method: str, metadata: Any) -> Any:
    if method in ("Echo", "Writes"):
        return channel.stream_stream(f"/echo/{method}")(metadata=metadata)
    # The stubs know no calls without a serializer.
    stub: Any = channel.unary_stream
    return stub(f"/echo/{method}")(b"a", metadata=metadata)


@pytest.mark.parametrize("method", ["Echo", "Writes", "Waits", "Floods", "Pours"])
async def test_streams_of_every_shape_end_with_the_reason(echo: Echo, mesh: Mesh, method: str) -> None:
    thief, other = mesh.workload("servers", "/agent/web1"), mesh.workload("servers", "/agent/web2")
    async with echo.channel(thief) as channel, echo.channel(other) as untouched:
        call = opened(channel, method, await call_metadata(thief, echo.audience))
        beside = opened(untouched, "Echo", await call_metadata(other, echo.audience))
        for stream in (call, beside):
            await running(stream)
        say(echo.trust, mesh, word(thief.spiffe_id))
        failed = await end_of(call)
        assert failed.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "is distrusted since" in (failed.details() or "")
        await beside.write(b"still here")
        assert await beside.read() == b"still here"
        beside.cancel()


async def test_a_stream_for_a_distrusted_principal_ends_and_its_forwarder_stays(
    echo: Echo, mesh: Mesh
) -> None:
    gateway, alice = mesh.workload("platform", "/gateway"), mesh.workload("operators", "/alice")
    own = await call_metadata(gateway, echo.audience)
    behalf = (*own, (ON_BEHALF_OF, await alice.token(echo.audience)))
    async with echo.channel(gateway) as channel:
        call = opened(channel, "Waits", behalf)
        assert await call.read() == b"a"
        say(echo.trust, mesh, word(alice.spiffe_id))
        failed = await end_of(call)
        assert failed.code() is grpc.StatusCode.UNAUTHENTICATED
        assert str(alice.spiffe_id) in (failed.details() or "")
        with pytest.raises(grpc.aio.AioRpcError, match="is distrusted since"):
            await echo.call(gateway, authorization=own[0][1], telltale_on_behalf_of=behalf[1][1])
        assert "gateway" in await echo.call(gateway, authorization=own[0][1])


async def test_a_new_call_is_refused_with_what_to_do_and_after_the_lift_for_new_keys_only(
    echo: Echo, mesh: Mesh
) -> None:
    thief = mesh.workload("servers", "/agent/web1")
    (bearer,) = await call_metadata(thief, echo.audience)
    assert "web1" in await echo.call(thief, authorization=bearer[1])
    say(echo.trust, mesh, word(thief.spiffe_id))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await echo.call(thief, authorization=bearer[1])
    assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "set it up anew, then lift it with `telltale distrust SPIFFE-ID --lift`" in (
        failed.value.details() or ""
    )
    lift(echo.trust, mesh, thief.spiffe_id)
    with pytest.raises(grpc.aio.AioRpcError, match="for new keys only"):
        await echo.call(thief, authorization=bearer[1])


async def test_a_distrusted_server_is_not_called(echo: Echo, mesh: Mesh) -> None:
    me = mesh.workload("platform", "/writer")
    (bearer,) = await call_metadata(me, echo.audience)
    async with echo.channel(me) as channel:
        assert await channel.unary_unary("/echo/Who")(b"", metadata=(bearer,), timeout=PATIENCE_SECONDS)
        service = mesh.spiffe_id("servers", "/service")
        say(me.trust, mesh, word(service))
        with pytest.raises(Unavailable, match="is distrusted since"):
            await channel.unary_unary("/echo/Who")(b"", metadata=(bearer,))
        lift(me.trust, mesh, service)
        assert await channel.unary_unary("/echo/Who")(b"", metadata=(bearer,), timeout=PATIENCE_SECONDS)
