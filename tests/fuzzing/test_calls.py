"""Whatever somebody who may call sends to a method that is served: a clear status, and the server goes on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from telltale.api.mesh.v1.batch_pb2 import Cursor, Position
from telltale.api.mesh.v1.stream_pb2 import ListRequest, StreamSubscribeRequest, SubscribeRequest
from telltale.contract.image import Image
from telltale.contract.pull import pull
from telltale.errors import LONGEST_MESSAGE
from telltale.identity.workload import Workload
from telltale.rpc.client import call_metadata
from tests.fuzzing import world
from tests.fuzzing.campaign import Share, Target, record, seed, shares
from tests.fuzzing.mutate import Mutator
from tests.gateway.realdomain import servers
from tests.gateway.wire import gateway_service
from tests.support.batches import DISK_USAGE
from tests.support.domain import free_port, running
from tests.support.hostile import everything

# Nobody sends what the other side calls a mistake of its own.
_NEVER = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)
_PATIENCE = 20.0
# So long a stream that has been taken is listened to.
_QUIET = 0.2
Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass
class Door:
    """A server, and those who may call it."""

    channels: Sequence[tuple[grpc.aio.Channel, Metadata]]
    methods: Sequence[MethodDescriptor]


@asynccontextmanager
async def door(
    callers: Sequence[Workload], address: str, server_name: str, audiences: Sequence[str]
) -> AsyncIterator[Door]:
    channels = [(one.channel(address, server_name), await call_metadata(one, *audiences)) for one in callers]
    try:
        image = Image.of_files((await pull(*channels[0])).values())
        services = [
            image.pool.FindFileByName(name).services_by_name.values() for name in sorted(image.protos)
        ]
        methods = [method for found in services for service in found for method in service.methods]
        yield Door(channels, methods)
    finally:
        for channel, _ in channels:
            await channel.close(None)


def good(method: MethodDescriptor) -> list[bytes]:
    """Requests that a server takes, and those in which every field is hostile."""
    position = Position(product=DISK_USAGE, log="log", offset=3)
    match method.input_type.name:
        case "SubscribeRequest":
            made = [SubscribeRequest(cursor=Cursor(positions=[position])), SubscribeRequest()]
        case "StreamSubscribeRequest":
            made = [StreamSubscribeRequest(products=["servers.*"], cursor=Cursor(positions=[position]))]
        case "ListRequest":
            made = [ListRequest(filter='host_name = "web1"', page_size=2, page_token="bm9uZQ==")]
        case "PushRequest":
            return list(world.pushes())
        case _:
            made = [GetMessageClass(method.input_type)()]
    hostile = [one for one in everything(method.input_type) if len(one) < 20_000]
    return [*(one.SerializeToString() for one in made), *hostile]


async def ask(
    channel: grpc.aio.Channel, method: MethodDescriptor, request: bytes, metadata: Metadata
) -> tuple[grpc.StatusCode, str]:
    """What comes of a call; OK as soon as a stream says anything, or is open and has nothing to say."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    open_call: Any = channel.stream_stream if method.client_streaming else channel.unary_stream
    given = () if method.client_streaming else (request,)
    call = open_call(path)(*given, metadata=metadata, timeout=_PATIENCE)
    said: asyncio.Future[Any] | None = None
    try:
        # Written to earlier, a call that is refused would lose its status.
        await call.initial_metadata()
        if method.client_streaming:
            await call.write(request)
            await call.done_writing()
        said = asyncio.ensure_future(call.read())
        done, _ = await asyncio.wait({said}, timeout=_QUIET if method.server_streaming else None)
        if not done or said.result() is not grpc.aio.EOF:  # type: ignore[attr-defined]  # the stubs lack it
            return grpc.StatusCode.OK, ""
        return await call.code(), await call.details() or ""
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return await call.code(), await call.details() or ""
    finally:
        call.cancel()
        if said is not None:
            await asyncio.gather(said, return_exceptions=True)


def odd(random: Random, metadata: Metadata) -> Metadata:
    """Metadata of its own, sometimes with more, less or other things in it."""
    match int(random.random() * 12):
        case 0:
            return ()
        case 1:
            return (*metadata, *metadata)
        case 2:
            return (*metadata, ("telltale-on-behalf-of", "x" * int(random.random() * 3_000)))
        case 3:
            return (*metadata, ("anything-bin", random.randbytes(int(random.random() * 200))))
        case 4:
            return (("authorization", "Bearer " + "." * int(random.random() * 3_000)),)
        case _:
            return metadata


async def knock(share: Share, record_property: Callable[[str, object], None], at: Door) -> None:
    """Calls methods in turns, with changed requests and odd metadata."""
    start = seed() + share.part
    random = Random(start)
    mutators = [Mutator(start + number, good(method)) for number, method in enumerate(at.methods)]
    taken = 0
    for number in range(share.inputs):
        place = number % len(at.methods)
        channel, metadata = at.channels[int(random.random() * len(at.channels))]
        request, sent = mutators[place].next(), odd(random, metadata)
        code, details = await ask(channel, at.methods[place], request, sent)
        where = f"{at.methods[place].full_name}, TELLTALE_FUZZ_SEED={start}, call {number}: {code} {details}"
        assert code not in (*_NEVER, grpc.StatusCode.DEADLINE_EXCEEDED), f"{where}: {request[:4_096].hex()}"
        assert len(details) <= LONGEST_MESSAGE, where
        taken += code is grpc.StatusCode.OK
    # It still answers everybody.
    for channel, metadata in at.channels:
        assert await pull(channel, metadata)
    record(share, record_property, taken)


def nothing(data: bytes) -> bool:
    return bool(data)


@shares(Target("calls of a domain service", 20_000, world.pushes, nothing))
async def test_a_domain_service_answers_whatever_it_is_sent(
    share: Share, record_property: Callable[[str, object], None], tmp_path: Path
) -> None:
    mesh = world.domains()
    callers = [
        mesh.workload("operators", "/alice"),
        mesh.workload("servers", "/agent/web1"),
        mesh.workload("platform", "/gateway"),
    ]
    async with running(mesh, tmp_path) as service:
        name = mesh.server_name("service", "servers")
        async with door(callers, service.address, name, [mesh.trust_domain("servers")]) as at:
            assert {"Push", "Register", "Check", "List", "Watch", "Subscribe"} <= {
                one.name for one in at.methods
            }
            await knock(share, record_property, at)


@shares(Target("calls of the gateway", 10_000, world.pushes, nothing))
async def test_the_gateway_answers_whatever_it_is_sent(
    share: Share, record_property: Callable[[str, object], None], tmp_path: Path
) -> None:
    mesh = world.domains()
    callers = [
        mesh.workload("operators", "/alice"),
        mesh.workload("servers", "/service", [mesh.server_name("service", "servers")]),
    ]
    async with gateway_service(mesh, tmp_path / "gateway") as gateway:
        async with servers(mesh, gateway, tmp_path / "servers", free_port()):
            name = mesh.server_name("gateway", "platform")
            audiences = [mesh.trust_domain("platform"), mesh.trust_domain("servers")]
            address = f"127.0.0.1:{gateway.port}"
            async with registered(callers, address, name, audiences) as at:
                assert {"Register", "ListProducts", "List", "Subscribe"} <= {one.name for one in at.methods}
                await knock(share, record_property, at)


@asynccontextmanager
async def registered(
    callers: Sequence[Workload], address: str, server_name: str, audiences: Sequence[str]
) -> AsyncIterator[Door]:
    """The gateway's door as soon as the products of the domain are behind it."""
    while True:
        async with door(callers, address, server_name, audiences) as at:
            if any(method.containing_service.name == "DiskUsage" for method in at.methods):
                yield at
                return
        await asyncio.sleep(0.05)
