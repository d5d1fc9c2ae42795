"""A small server for tests of the wire: it says who calls, and has a raw handler of every kind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from telltale.api.mesh.v1 import access_pb2
from telltale.audit import UNRECORDED, Auditor
from telltale.errors import LimitExceeded, NotFound, PermissionMissing, Precondition
from telltale.identity.credentials import Credentials
from telltale.identity.dialling import LARGEST_MESSAGE, dial
from telltale.identity.trust import Trust
from telltale.identity.workload import Workload
from telltale.naming import SpiffeId
from telltale.rpc.auth import Authenticator, caller
from telltale.rpc.bounds import MEMBERS, Bounds
from telltale.rpc.server import serving
from tests.support.mesh import Mesh

ERRORS = {
    b"not found": NotFound("there is none"),
    b"limit": LimitExceeded("batches", "too many"),
    b"permission": PermissionMissing("spiffe://a.b/c", "subscribe", "servers.cpu"),
    b"precondition": Precondition("not yet"),
    b"bug": RuntimeError("the secret is 42"),
}


async def who(request: bytes, context: Any) -> bytes:
    if request in ERRORS:
        raise ERRORS[request]
    known = caller()
    groups = f" in {', '.join(sorted(known.groups))}" if known.groups else ""
    return f"{known.principal} by {known.peer}{groups}".encode()


async def echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    """A raw proxy's shape: an async generator over a stream."""
    async for request in requests:
        if request in ERRORS:
            raise ERRORS[request]
        yield request


async def writes(requests: AsyncIterator[bytes], context: Any) -> None:
    """The other way to write a streaming handler."""
    async for request in requests:
        await context.write(request)


async def floods(request: bytes, context: Any) -> AsyncIterator[bytes]:
    """Always has the next response ready."""
    while True:
        yield request


async def pours(request: bytes, context: Any) -> None:
    """The same by writing."""
    while True:
        await context.write(request)


async def waits(request: bytes, context: Any) -> AsyncIterator[bytes]:
    """Says one thing and then nothing."""
    yield request
    await asyncio.Event().wait()


async def counts(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return str(len([request async for request in requests])).encode()


async def answers(request: bytes, context: Any) -> bytes:
    """More at once than is kept on the way to somebody who does not read."""
    return bytes(LARGEST_MESSAGE - 1_000)


async def typed(request: access_pb2.CheckRequest, context: Any) -> access_pb2.CheckResponse:
    return access_pb2.CheckResponse(decisions=[access_pb2.AccessDecision(reason=request.token)])


HANDLERS = {
    "Who": grpc.unary_unary_rpc_method_handler(who),
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
    "Writes": grpc.stream_stream_rpc_method_handler(writes),
    "Floods": grpc.unary_stream_rpc_method_handler(floods),
    "Pours": grpc.unary_stream_rpc_method_handler(pours),
    "Waits": grpc.unary_stream_rpc_method_handler(waits),
    "Counts": grpc.stream_unary_rpc_method_handler(counts),
    "Answers": grpc.unary_unary_rpc_method_handler(answers),
    "Typed": grpc.unary_unary_rpc_method_handler(
        typed, access_pb2.CheckRequest.FromString, access_pb2.CheckResponse.SerializeToString
    ),
}


@dataclass
class Echo:
    """Where the server listens and what it is called."""

    mesh: Mesh
    address: str
    server_name: str
    audience: str
    # The server's own.
    trust: Trust

    def channel(self, who: Workload | Credentials) -> grpc.aio.Channel:
        if isinstance(who, Workload):
            return who.channel(self.address, self.server_name)
        return dial(self.address, self.server_name, self.mesh.trust.root_pem, who)

    async def call(self, who: Workload | Credentials, request: bytes = b"", **metadata: str) -> str:
        """Asks who calls, with exactly this metadata (`_` for `-`)."""
        headers = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
        async with self.channel(who) as channel:
            answer = await channel.unary_unary("/echo/Who")(request, metadata=headers, timeout=10)
            return bytes(answer).decode()


@asynccontextmanager
async def echo_server(
    mesh: Mesh,
    forwarders: frozenset[SpiffeId] = frozenset(),
    auditor: Auditor = UNRECORDED,
    bounds: Bounds = MEMBERS,
) -> AsyncIterator[Echo]:
    """Serves as the domain service of `servers`."""
    name, audience = mesh.server_name("service", "servers"), mesh.trust_domain("servers")
    me = mesh.workload("servers", "/service", [name])
    generic = grpc.method_handlers_generic_handler("echo", HANDLERS)
    async with serving(
        me,
        "127.0.0.1:0",
        Authenticator(me.trust, audience, forwarders),
        lambda server: server.add_generic_rpc_handlers((generic,)),
        auditor=auditor,
        bounds=bounds,
    ) as port:
        yield Echo(mesh, f"127.0.0.1:{port}", name, audience, me.trust)
