"""What one caller may take of a server, and what is left for all others."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from telltale.identity.dialling import LARGEST_MESSAGE, dial
from telltale.identity.workload import Workload
from telltale.rpc import guard
from telltale.rpc.bounds import MEMBERS, MOST_CALLS, STRANGERS, Bounds
from telltale.rpc.client import call_metadata
from tests.support.auditing import Recorded
from tests.support.echo import Echo, echo_server
from tests.support.mesh import Mesh
from tests.support.stalling import stalling

HEALTH = "/grpc.health.v1.Health/Check"
Metadata = tuple[tuple[str, str], ...]


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.create(tmp_path, "servers", "platform")


@pytest.fixture
def agent(mesh: Mesh) -> Workload:
    return mesh.workload("servers", "/agent/web1")


@pytest.fixture
async def hurried(mesh: Mesh) -> AsyncIterator[Echo]:
    """Does not wait for requests."""
    async with echo_server(mesh, bounds=Bounds(100, 100, first_message=0.05)) as server:
        yield server


@pytest.fixture
async def narrow(mesh: Mesh) -> AsyncIterator[Echo]:
    """Has room for few calls of one caller, and for a few more of the gateway's."""
    forwarders = frozenset({mesh.spiffe_id("platform", "/gateway")})
    async with echo_server(mesh, forwarders, bounds=Bounds(3, 5, first_message=60)) as server:
        yield server


def opened(channel: grpc.aio.Channel, method: str, metadata: Metadata) -> Any:
    """A call of any shape whose headers are sent and nothing else."""
    # The stubs know no calls without serializers.
    stub: Any = channel.stream_stream
    return stub(method)(metadata=metadata)


async def ended(call: Any) -> tuple[grpc.StatusCode, str]:
    """Waits for a call that gets no answer to end, with this status."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call.read()
    return failed.value.code(), failed.value.details() or ""


async def cancelled(reading: Sequence["asyncio.Task[Any]"]) -> None:
    """With its reader a call ends."""
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)


@pytest.mark.parametrize("method", ["/echo/Who", "/echo/Typed", "/echo/Floods", "/echo/Pours", HEALTH])
async def test_a_call_whose_request_does_not_come_is_ended(
    hurried: Echo, agent: Workload, method: str
) -> None:
    async with hurried.channel(agent) as channel:
        metadata = await call_metadata(agent, hurried.audience)
        code, said = await ended(opened(channel, method, metadata))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert said == "the call was opened 0.05 s ago and its request has not come; send it with the call"


@pytest.mark.parametrize("method", ["/echo/Who", "/echo/Typed", "/echo/Floods", "/echo/Pours"])
async def test_a_call_without_a_token_does_not_wait_for_its_request(
    narrow: Echo, agent: Workload, method: str
) -> None:
    async with narrow.channel(agent) as channel:
        code, _ = await ended(opened(channel, method, ()))
    assert code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("method", ["/echo/Echo", "/echo/Writes"])
async def test_a_stream_may_stay_quiet(hurried: Echo, agent: Workload, method: str) -> None:
    async with hurried.channel(agent) as channel:
        metadata = await call_metadata(agent, hurried.audience)
        quiet = opened(channel, method, metadata)
        # Opened later, and ended for its silence.
        code, _ = await ended(opened(channel, "/echo/Who", metadata))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        await quiet.write(b"here I am")
        assert await quiet.read() == b"here I am"
        quiet.cancel()


async def test_a_call_that_ends_without_its_request_is_the_callers_mistake(
    narrow: Echo, agent: Workload
) -> None:
    async with narrow.channel(agent) as channel:
        call = opened(channel, "/echo/Who", await call_metadata(agent, narrow.audience))
        await call.done_writing()
        code, said = await ended(call)
    assert (code, said) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "the call ended without a request; send one message",
    )


async def test_a_caller_that_leaves_before_its_request_is_no_error_of_the_server(
    narrow: Echo, agent: Workload
) -> None:
    with capture_logs() as logs:
        async with narrow.channel(agent) as channel:
            metadata = await call_metadata(agent, narrow.audience)
            for method in ("/echo/Who", "/echo/Floods"):
                call = opened(channel, method, metadata)
                await call.wait_for_connection()
                call.cancel()
            assert b"web1" in await channel.unary_unary("/echo/Who")(b"", metadata=metadata)
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == []


async def test_a_caller_reaches_its_own_bound_and_others_are_served(mesh: Mesh, agent: Workload) -> None:
    record = Recorded()
    async with echo_server(mesh, auditor=record, bounds=Bounds(3, 0, first_message=60)) as echo:
        metadata = await call_metadata(agent, echo.audience)
        async with echo.channel(agent) as one, echo.channel(agent) as another:
            calls = [
                opened(channel, method, metadata)
                for channel in (one, another)
                for method in ("/echo/Who", "/echo/Floods", "/echo/Echo")
            ]
            reading = [asyncio.create_task(ended(call)) for call in calls]
            name = "spiffe://servers.telltale.test/agent/web1"
            for next_one in itertools.islice(asyncio.as_completed(reading), 3):
                code, said = await next_one
                assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert said.startswith(f"{name} has 3 calls open at this server, the most of one caller")
            other = mesh.workload("servers", "/agent/web2")
            assert "web2" in await echo.call(
                other, authorization=f"Bearer {await other.token(echo.audience)}"
            )
            await cancelled(reading)
            # With the calls, their places are free again.
            async with asyncio.timeout(10):
                while await _is_refused(one, metadata):
                    pass
    denied = record.of("admit")
    assert {(one.allowed, one.principal, one.peer, one.address) for one in denied} == {
        (False, name, name, "127.0.0.1")
    }


async def _is_refused(channel: grpc.aio.Channel, metadata: Metadata) -> bool:
    try:
        await channel.unary_unary("/echo/Who")(b"", metadata=metadata)
    except grpc.aio.AioRpcError as failed:
        assert failed.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        return True
    return False


async def test_a_caller_that_does_not_take_its_answers_holds_calls_of_its_own_only(
    mesh: Mesh, narrow: Echo, agent: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned: asyncio.Queue[str] = asyncio.Queue()
    monkeypatch.setattr(
        guard._calls, "add", lambda number, labels: returned.put_nowait(labels["rpc.response.status_code"])
    )
    held, trust = agent.credentials, mesh.trust
    tls = grpc.ssl_channel_credentials(trust.root_pem, held.key_pem, held.chain_pem)
    # It takes 64 KiB of what it does not read, and never more.
    options = (("grpc.http2.bdp_probe", 0), ("grpc.ssl_target_name_override", narrow.server_name))
    async with grpc.aio.secure_channel(narrow.address, tls, options) as channel:
        metadata = await call_metadata(agent, narrow.audience)
        unread = [opened(channel, "/echo/Answers", metadata) for _ in range(3)]
        for call in unread:
            await call.write(b"")
        # The handlers have returned, and what they returned is on its way for as long as the caller likes.
        async with asyncio.timeout(10):
            assert [await returned.get() for _ in unread] == ["OK", "OK", "OK"]
        assert await _is_refused(channel, metadata)
        for call in unread:
            call.cancel()


async def test_a_forwarder_has_room_for_many_callers_and_each_of_them_for_its_own(
    mesh: Mesh, narrow: Echo, agent: Workload
) -> None:
    gateway, other = mesh.workload("platform", "/gateway"), mesh.workload("servers", "/agent/web2")
    own = await call_metadata(gateway, narrow.audience)

    async def behalf(who: Workload) -> Metadata:
        return (*own, ("telltale-on-behalf-of", await who.token(narrow.audience)))

    async with narrow.channel(gateway) as channel:

        async def streaming(metadata: Metadata) -> Any:
            call = opened(channel, "/echo/Echo", metadata)
            await call.write(b"a")
            assert await call.read() == b"a"
            return call

        first = [await streaming(await behalf(agent)) for _ in range(3)]
        code, said = await ended(opened(channel, "/echo/Echo", await behalf(agent)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert said.startswith("spiffe://servers.telltale.test/agent/web1 by spiffe://platform")
        second = [await streaming(await behalf(other)) for _ in range(2)]
        code, said = await ended(opened(channel, "/echo/Echo", await behalf(other)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert said.startswith("spiffe://platform.telltale.test/gateway has 5 calls open")
        # What others hold by the gateway is not taken from those who call by themselves.
        assert "web1" in await narrow.call(
            agent, authorization=f"Bearer {await agent.token(narrow.audience)}"
        )
        for call in (*first, *second):
            call.cancel()


async def test_of_large_requests_that_do_not_end_a_caller_has_few_and_others_are_served(
    mesh: Mesh, agent: Workload
) -> None:
    large = bytes(LARGEST_MESSAGE)
    async with (
        echo_server(mesh, bounds=replace(MEMBERS, reading_per_caller=2)) as echo,
        AsyncExitStack() as held,
    ):
        metadata = await call_metadata(agent, echo.audience)
        relay = await held.enter_async_context(stalling(echo.address, len(large) - 20_000))

        async def send(seconds: float | None = None) -> None:
            # Each on a connection of its own: that of one would keep back the others.
            root = mesh.trust.root_pem
            async with dial(relay.address, echo.server_name, root, agent.credentials) as channel:
                await channel.unary_unary("/echo/Who")(large, metadata=metadata, timeout=seconds)

        async def small(who: Workload, **options: Any) -> bytes:
            async with echo.channel(who) as channel:
                proof = await call_metadata(who, echo.audience)
                answer: bytes = await channel.unary_unary("/echo/Who")(b"", metadata=proof, **options)
                return answer

        stalled = [asyncio.create_task(send()) for _ in range(2)]
        for _ in stalled:
            await relay.stalled.get()
        behind = await asyncio.gather(*(send(2.0) for _ in range(10)), return_exceptions=True)
        assert {type(one) for one in behind} == {grpc.aio.AioRpcError}
        # What waits for its turn is kept by its sender, but for the window of a stream.
        assert len(relay.taken) == 12 and max(relay.taken[2:]) < LARGEST_MESSAGE // 8
        assert b"web2" in await small(mesh.workload("servers", "/agent/web2"))
        waiting = asyncio.create_task(small(agent))
        await cancelled(stalled)
        assert b"web1" in await waiting


async def test_who_waits_too_long_for_a_turn_is_told_to_end_its_other_requests(
    mesh: Mesh, agent: Workload
) -> None:
    bounds = Bounds(100, 100, first_message=0.05, reading_per_caller=0)
    async with echo_server(mesh, bounds=bounds) as echo, echo.channel(agent) as channel:
        metadata = await call_metadata(agent, echo.audience)
        code, said = await ended(opened(channel, "/echo/Who", metadata))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert said.startswith("this call has waited for 0.05 s behind other calls of yours")


async def test_many_calls_at_once_whose_requests_come_are_all_answered(mesh: Mesh, agent: Workload) -> None:
    async with (
        echo_server(mesh, bounds=replace(MEMBERS, reading_per_caller=2)) as echo,
        echo.channel(agent) as channel,
    ):
        metadata = await call_metadata(agent, echo.audience)
        call = channel.unary_unary("/echo/Who")
        answers = await asyncio.gather(*(call(bytes(1_000), metadata=metadata) for _ in range(200)))
    assert len(answers) == 200


async def test_those_who_wait_behind_a_forwarder_take_no_turn_of_its_other_callers(
    mesh: Mesh, agent: Workload
) -> None:
    gateway, other = mesh.workload("platform", "/gateway"), mesh.workload("servers", "/agent/web2")
    bounds = replace(MEMBERS, reading_per_caller=1, reading_per_forwarder=2)
    async with echo_server(mesh, frozenset({gateway.spiffe_id}), bounds=bounds) as narrow:
        own = await call_metadata(gateway, narrow.audience)

        async def behalf(who: Workload) -> Metadata:
            return (*own, ("telltale-on-behalf-of", await who.token(narrow.audience)))

        async with narrow.channel(gateway) as channel:
            silent = [opened(channel, "/echo/Who", await behalf(agent)) for _ in range(5)]
            reading = [asyncio.create_task(ended(call)) for call in silent]
            for call in silent:
                await call.wait_for_connection()
            answer = await channel.unary_unary("/echo/Who")(b"", metadata=await behalf(other))
            assert b"web2" in answer
            await cancelled(reading)


async def test_probes_are_bounded_by_the_certificate_and_apart_from_other_calls(
    mesh: Mesh, narrow: Echo, agent: Workload
) -> None:
    other = mesh.workload("servers", "/agent/web2")
    async with narrow.channel(agent) as channel, narrow.channel(other) as elsewhere:
        metadata = await call_metadata(agent, narrow.audience)
        held = [asyncio.create_task(ended(opened(channel, HEALTH, ()))) for _ in range(4)]
        code, said = await next(asyncio.as_completed(held))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert said.startswith("spiffe://servers.telltale.test/agent/web1 without a token has 3 calls")
        # From the same address, and the same caller with a token.
        assert await elsewhere.unary_unary(HEALTH)(b"") == b"\x08\x01"
        assert b"web1" in await channel.unary_unary("/echo/Who")(b"", metadata=metadata)
        await cancelled(held)


def test_the_bound_of_one_caller_is_far_below_that_of_all() -> None:
    assert max(MEMBERS.per_caller, STRANGERS.per_caller) * 50 <= MOST_CALLS
    assert MEMBERS.per_forwarder * 2 <= MOST_CALLS
