"""Nobody yet, or no more: what the enrolment port gives away to those without a certificate."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from telltale.api.mesh.v1.authority_pb2 import EnrollRequest
from telltale.api.mesh.v1.authority_pb2_grpc import AuthorityStub
from telltale.errors import Unauthenticated
from telltale.identity.dialling import dial
from telltale.identity.enrolment import JoinToken
from telltale.identity.keys import new_key, signing_request
from telltale.naming import server_name
from tests.support.attacker import (
    MESH,
    MESH_API,
    SERVERS,
    Attacker,
    HeldCalls,
)

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]


async def test_a_join_token_is_good_for_one_key(attacker: Attacker) -> None:
    authority = attacker.authority("servers")
    token = JoinToken.parse(attacker.join_token("servers", "/agent/joiner"))
    key = new_key()
    joined = await authority.enroll(token, key)
    assert (await authority.enroll(token, key)).certificates == joined.certificates
    with pytest.raises(Unauthenticated, match="find out who used it"):
        await authority.enroll(token, new_key())
    # Its name alone is worth nothing, nor is its secret under another name.
    for guess in (f"join-guess@{SERVERS}/agent/joiner", str(token).replace("joiner", "root")):
        with pytest.raises(Unauthenticated, match="unknown here"):
            await authority.enroll(JoinToken.parse(guess), new_key())


async def test_a_flood_of_guesses_from_one_address_keeps_nobody_else_from_joining(attacker: Attacker) -> None:
    authority = attacker.authority("operators")
    async with _from_address("127.0.0.66", authority._enrollment) as address:
        async with dial(
            address, server_name("authority", f"operators.{MESH}"), attacker.trust.root_pem
        ) as channel:
            guess = EnrollRequest(
                join_token=f"join-guess@operators.{MESH}/root", signing_request=signing_request(new_key())
            )
            said = []
            for _ in range(60):
                try:
                    await AuthorityStub(channel).Enroll(guess, timeout=10)
                except grpc.aio.AioRpcError as failed:
                    said.append((failed.code().name, failed.details()))
    assert len(said) == 60
    assert {code for code, _ in said} == {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED"}
    assert "wait a minute" in str(said[-1])
    token = attacker.join_token("operators", "/honest")
    assert (await authority.enroll(JoinToken.parse(token), new_key())).spiffe_id.path == "/honest"


async def test_calls_that_are_opened_from_one_address_keep_nobody_else_from_joining(
    attacker: Attacker,
) -> None:
    most, name = 64, server_name("authority", f"operators.{MESH}")
    authority = attacker.authority("operators")
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(_from_address("127.0.0.67", authority._enrollment))
        channels = [
            await stack.enter_async_context(dial(address, name, attacker.trust.root_pem)) for _ in range(40)
        ]
        # One connection takes four.
        held = HeldCalls(channels, f"{MESH_API}Authority/Enroll", 4 * len(channels))
        await stack.enter_async_context(held)
        (said,) = await held.refused(4 * len(channels) - most)
        assert said.startswith(f"127.0.0.67 without a token has {most} calls open at this server")
        token = attacker.join_token("operators", "/honest-too")
        joined = await authority.enroll(JoinToken.parse(token), new_key())
        assert joined.spiffe_id.path == "/honest-too"


@contextlib.asynccontextmanager
async def _from_address(source: str, target: str) -> AsyncIterator[str]:
    """Forwards connections to the target, which sees them come from another address of this machine."""
    host, _, port = target.rpartition(":")

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_target = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
        with contextlib.suppress(OSError):
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, to_target[1]))
                both.create_task(_copy(to_target[0], writer))

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
