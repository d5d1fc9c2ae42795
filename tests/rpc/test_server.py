"""What stands around every handler, seen from the other end of the wire."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from structlog.testing import capture_logs

from telltale.api.mesh.v1 import access_pb2
from telltale.errors import ConfigurationError
from telltale.identity.workload import Workload
from telltale.rpc import guard, health
from telltale.rpc.bounds import STRANGERS
from telltale.rpc.client import call_metadata
from telltale.rpc.server import serving
from tests.support.echo import Echo, echo_server
from tests.support.mesh import Mesh

Metadata = tuple[tuple[str, str], ...]


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.create(tmp_path, "servers")


@pytest.fixture
async def echo(mesh: Mesh) -> AsyncIterator[Echo]:
    async with echo_server(mesh) as server:
        yield server


@pytest.fixture
def agent(mesh: Mesh) -> Workload:
    return mesh.workload("servers", "/agent/web1")


@pytest.fixture
async def channel(echo: Echo, agent: Workload) -> AsyncIterator[grpc.aio.Channel]:
    async with echo.channel(agent) as open_channel:
        yield open_channel


@pytest.fixture
async def metadata(echo: Echo, agent: Workload) -> Metadata:
    return await call_metadata(agent, echo.audience)


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value


async def requests() -> AsyncIterator[bytes]:
    for request in (b"a", b"b"):
        yield request


async def test_all_shapes_of_handlers_work_raw_ones_too(
    channel: grpc.aio.Channel, metadata: Metadata
) -> None:
    assert b"web1" in await channel.unary_unary("/echo/Who")(b"", metadata=metadata)
    assert await channel.stream_unary("/echo/Counts")(requests(), metadata=metadata) == b"2"
    for method in ("/echo/Echo", "/echo/Writes"):
        call = channel.stream_stream(method)(requests(), metadata=metadata)
        assert [response async for response in call] == [b"a", b"b"]
    waiting = channel.unary_stream("/echo/Waits")(b"a", metadata=metadata)
    assert await waiting.read() == b"a"
    waiting.cancel()


@pytest.mark.parametrize("method", ["/echo/Who", "/echo/Waits", "/echo/Typed"])
async def test_no_shape_of_handler_answers_without_a_token(channel: grpc.aio.Channel, method: str) -> None:
    call = channel.unary_stream(method)(b"")
    assert (await refused(call.read())).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_without_a_token_is_refused_before_its_first_message(
    channel: grpc.aio.Channel,
) -> None:
    for method in ("/echo/Echo", "/echo/Writes"):
        call = channel.stream_stream(method)()
        assert (await refused(call.read())).code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"not found", grpc.StatusCode.NOT_FOUND),
        (b"limit", grpc.StatusCode.RESOURCE_EXHAUSTED),
        (b"permission", grpc.StatusCode.PERMISSION_DENIED),
        (b"precondition", grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
async def test_errors_become_statuses(
    channel: grpc.aio.Channel, metadata: Metadata, request_: bytes, code: grpc.StatusCode
) -> None:
    single = await refused(channel.unary_unary("/echo/Who")(request_, metadata=metadata))
    assert single.code() is code
    call = channel.stream_stream("/echo/Echo")(metadata=metadata)
    await call.write(request_)
    streamed = await refused(call.read())
    assert (streamed.code(), streamed.details()) == (code, single.details())


async def test_a_bug_tells_the_caller_an_incident_and_nothing_else(
    channel: grpc.aio.Channel, metadata: Metadata
) -> None:
    failed = await refused(channel.unary_unary("/echo/Who")(b"bug", metadata=metadata))
    assert failed.code() is grpc.StatusCode.INTERNAL
    assert "incident" in (failed.details() or "") and "the secret" not in (failed.details() or "")


async def test_what_is_no_message_is_the_callers_mistake(
    channel: grpc.aio.Channel, metadata: Metadata
) -> None:
    failed = await refused(channel.unary_unary("/echo/Typed")(b"\xff\xff", metadata=metadata))
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
    good = access_pb2.CheckRequest(token="t").SerializeToString()
    answer = access_pb2.CheckResponse.FromString(
        await channel.unary_unary("/echo/Typed")(good, metadata=metadata)
    )
    assert answer.decisions[0].reason == "t"


async def test_a_message_of_100_megabytes_is_refused(channel: grpc.aio.Channel, metadata: Metadata) -> None:
    failed = await refused(channel.unary_unary("/echo/Who")(bytes(100_000_000), metadata=metadata))
    assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert b"web1" in await channel.unary_unary("/echo/Who")(b"", metadata=metadata)


async def test_a_stream_ends_with_its_token(tmp_path: Path) -> None:
    mesh = Mesh.create(tmp_path / "brief", "servers", token_life=timedelta(seconds=2))
    agent = mesh.workload("servers", "/agent/web1")
    async with echo_server(mesh) as echo, echo.channel(agent) as channel:
        metadata = await call_metadata(agent, echo.audience)
        quiet = channel.unary_stream("/echo/Waits")(b"a", metadata=metadata)
        busy = channel.unary_stream("/echo/Floods")(b"a", metadata=metadata)
        written = channel.stream_stream("/echo/Writes")(metadata=metadata)
        await written.write(b"a")

        async def drained(call: Any) -> grpc.aio.AioRpcError:
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                async for _ in call:
                    pass
            return ended.value

        for ended in await asyncio.gather(drained(quiet), drained(busy), drained(written)):
            assert ended.code() is grpc.StatusCode.UNAUTHENTICATED
            assert ended.details() == "token expired, resume from cursor"


async def test_a_stopping_server_tells_its_streams_to_resume_elsewhere(mesh: Mesh, agent: Workload) -> None:
    async with AsyncExitStack() as client, AsyncExitStack() as server:
        echo = await server.enter_async_context(echo_server(mesh))
        channel = await client.enter_async_context(echo.channel(agent))
        metadata = await call_metadata(agent, echo.audience)
        call = channel.unary_stream("/echo/Waits")(b"a", metadata=metadata)
        assert await call.read() == b"a"
        await server.aclose()
        ended = await refused(call.read())
    assert ended.code() is grpc.StatusCode.UNAVAILABLE
    assert ended.details() == "the server is stopping; resume from the cursor"


@pytest.mark.parametrize("method", ["/echo/Floods", "/echo/Pours", "/echo/Waits"])
async def test_a_peer_that_leaves_is_no_error_of_the_server(mesh: Mesh, agent: Workload, method: str) -> None:
    with capture_logs() as logs:
        async with echo_server(mesh) as echo, echo.channel(agent) as channel:
            metadata = await call_metadata(agent, echo.audience)
            # Larger than what is buffered on the way: the handler is stuck in a write when the peer goes.
            call = channel.unary_stream(method)(bytes(1_000_000), metadata=metadata)
            assert len(await call.read()) == 1_000_000
            call.cancel()
            assert b"web1" in await channel.unary_unary("/echo/Who")(b"", metadata=metadata)
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == []


async def test_health_needs_a_certificate_and_no_token(channel: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    watching = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await refused(watching.read())).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_the_probe_answers_with_its_exit_code(
    echo: Echo, agent: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    agent.credentials.save(tmp_path / "me")
    monkeypatch.setenv("TELLTALE_STATE", str(tmp_path / "me"))
    monkeypatch.setenv("TELLTALE_TRUST", str(echo.mesh.home.trust))
    well = await asyncio.to_thread(health.main, [echo.address, "--server-name", echo.server_name])
    assert (well, capsys.readouterr().out) == (0, f"{echo.server_name} at {echo.address}: SERVING\n")
    assert await asyncio.to_thread(health.main, [echo.address, "--server-name", "other.test"]) == 1
    monkeypatch.setenv("TELLTALE_STATE", str(tmp_path / "nobody"))
    assert await asyncio.to_thread(health.main, [echo.address, "--server-name", echo.server_name]) == 1


async def test_calls_and_refusals_are_counted(
    channel: grpc.aio.Channel, metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(guard, "_calls", provider.get_meter("test").create_counter("telltale.rpc.calls"))
    await channel.unary_unary("/echo/Who")(b"", metadata=metadata)
    await refused(channel.unary_unary("/echo/Who")(b""))
    data = reader.get_metrics_data()
    assert data is not None
    points = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    counted = {
        (point.attributes["rpc.method"], point.attributes["rpc.response.status_code"]): point.value
        for point in points
        if point.attributes
    }
    assert counted == {("/echo/Who", "OK"): 1, ("/echo/Who", "UNAUTHENTICATED"): 1}
    provider.shutdown()


async def test_invented_methods_do_not_grow_the_metrics() -> None:
    watching = guard.Guard(None, STRANGERS)
    assert len({watching.label(f"/invented/{number}") for number in range(10_000)}) <= 501


async def test_a_taken_address_is_named(echo: Echo, mesh: Mesh) -> None:
    me = mesh.workload("servers", "/service", [echo.server_name])
    with pytest.raises(ConfigurationError, match=f"cannot listen on {echo.address}"):
        async with serving(me, echo.address, None, lambda server: None):
            pass
