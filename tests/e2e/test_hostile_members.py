"""Members of the mesh that turn on it, and strangers who wear it down: the others go on as before."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from telltale.api.mesh.v1.authority_pb2 import EnrollRequest
from telltale.api.mesh.v1.authority_pb2_grpc import AuthorityStub
from telltale.api.mesh.v1.batch_pb2 import Header, SealedFrame
from telltale.api.mesh.v1.catalog_pb2 import RegisterRequest
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.api.mesh.v1.ingest_pb2_grpc import IngestStub
from telltale.api.mesh.v1.schemas_pb2_grpc import add_SchemasServicer_to_server
from telltale.api.mesh.v1.stream_pb2 import StreamSubscribeRequest
from telltale.api.mesh.v1.stream_pb2_grpc import add_StreamServicer_to_server
from telltale.consume import holding
from telltale.consume.delivered import Delivered
from telltale.consume.subscription import Subscription
from telltale.contract.image import own_image
from telltale.contract.reflection import SymbolIndex, add_reflection
from telltale.errors import Unauthenticated
from telltale.identity.dialling import dial
from telltale.identity.enrolment import JoinToken
from telltale.identity.keys import new_key, signing_request
from telltale.identity.workload import Workload
from telltale.naming import SpiffeId, server_name
from telltale.rpc.auth import Authenticator
from telltale.rpc.server import serving
from tests.support.attacker import GATEWAY, MESH, Attacker, answer, bearer, opened
from tests.support.batches import DISK_USAGE, SCHEMAS
from tests.support.gateways import Gateway
from tests.support.running_mesh import RunningMesh

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]

SERVERS = f"servers.{MESH}"
DISK_USAGE_FILE = "telltale/api/servers/v1/disk_usage.proto"
BATCH_FILE = "telltale/api/mesh/v1/batch.proto"
SUBSCRIBE = "/telltale.api.servers.v1.DiskUsage/Subscribe"
STREAM = "/telltale.api.mesh.v1.Stream/Subscribe"


@pytest.fixture
def attacker(mesh: RunningMesh) -> Attacker:
    return Attacker(mesh)


# A gateway


async def test_a_gateway_that_swaps_two_fields_changes_the_meaning_of_nothing(
    attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "HOLD_SECONDS", 0.5)
    gateway, hostile = attacker.steal(GATEWAY), Gateway()
    hostile.frames.append(await _real_frame(attacker, gateway))
    digest = Header.FromString(hostile.frames[0].batches[0].header).schema_sha256
    hostile.schemas = {digest: _swapped("used_bytes", "available_bytes")}

    def add(server: grpc.aio.Server) -> None:
        add_StreamServicer_to_server(hostile, server)
        add_SchemasServicer_to_server(hostile, server)

    authenticator = Authenticator(attacker.trust, f"platform.{MESH}")
    writer = attacker.steal("services.writer")
    async with serving(gateway, "127.0.0.1:0", authenticator, add, grace=0.2) as port:
        async with Subscription(writer, f"127.0.0.1:{port}", [DISK_USAGE]) as stream:
            items = await anext(stream)
    assert items
    for item in items:
        assert isinstance(item, Delivered) and item.contract is None and item.refused is not None
        assert item.refused.reason == RefusalReason.REFUSAL_REASON_UNKNOWN_SCHEMA
        assert "SHA-256" in item.refused.detail


async def _real_frame(attacker: Attacker, gateway: Workload) -> SealedFrame:
    """What the agent of this machine has sealed, as the real domain service streams it."""
    async with attacker.channel(gateway, "servers") as channel:
        call = opened(channel, SUBSCRIBE, b"", await bearer(gateway, "servers"))
        async for data in call:
            frame = SealedFrame.FromString(data)
            if frame.batches:
                call.cancel()
                del frame.batches[1:]
                return frame
    raise LookupError("no batch")


def _swapped(one: str, other: str) -> bytes:
    files = FileDescriptorSet.FromString(SCHEMAS[DISK_USAGE].data)
    (record,) = [
        message for file in files.file for message in file.message_type if message.name == "DiskUsageRecord"
    ]
    fields = {field.name: field for field in record.field}
    fields[one].number, fields[other].number = fields[other].number, fields[one].number
    return files.SerializeToString()


# A domain service

Change = Callable[[FileDescriptorProto], object]


def _products_of_network(proto: FileDescriptorProto) -> None:
    data = proto.SerializeToString()
    proto.ParseFromString(data.replace(b"servers.disk_usage", b"network.disk_usage"))


def _swap_mesh_fields(proto: FileDescriptorProto) -> None:
    (header,) = [message for message in proto.message_type if message.name == "Header"]
    header.field[0].number, header.field[1].number = header.field[1].number, header.field[0].number


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        (DISK_USAGE_FILE, _products_of_network, "servers"),
        (DISK_USAGE_FILE, lambda proto: setattr(proto, "package", "telltale.api.network.v1"), "expected"),
        (
            DISK_USAGE_FILE,
            lambda proto: setattr(proto, "name", "telltale/api/network/v1/x.proto"),
            "not of servers",
        ),
        (BATCH_FILE, _swap_mesh_fields, "contradicts the mesh's own copy"),
    ],
)
async def test_a_domain_that_registers_what_is_not_its_own_is_refused_whole(
    attacker: Attacker, file: str, change: Change, reason: str
) -> None:
    before = {row["product"] for row in attacker.mesh.json("products")}
    files = {**own_image("mesh").files, **own_image("servers").files}
    proto = FileDescriptorProto.FromString(files.pop(file))
    change(proto)
    files[proto.name] = proto.SerializeToString()
    thief = attacker.steal("services.servers")
    async with _domain_service(attacker, thief, files) as address:
        code, detail = await _register(attacker, thief, address)
    assert (code, reason in detail) == ("INVALID_ARGUMENT", True), detail
    rows = attacker.mesh.json("products")
    assert {row["product"] for row in rows} == before
    assert {row["state"] for row in rows if row["trust_domain"] == SERVERS} == {"LIVE"}


async def test_a_domain_cannot_register_the_address_of_another(attacker: Attacker) -> None:
    thief = attacker.steal("services.servers")
    for address, code in (
        # Another domain's service: it proves another name.
        (attacker.environment("services.platform")["TELLTALE_LISTEN"], "UNAVAILABLE"),
        ("192.0.2.1:7443", "INVALID_ARGUMENT"),
        ("no address", "INVALID_ARGUMENT"),
        ("127.0.0.1:1", "UNAVAILABLE"),
    ):
        assert (await _register(attacker, thief, address))[0] == code, address


async def _register(attacker: Attacker, who: Workload, address: str) -> tuple[str, str]:
    request = RegisterRequest(address=address, descriptors_sha256=b"hostile").SerializeToString()
    async with attacker.channel(who, GATEWAY) as channel:
        metadata = await bearer(who, "platform")
        return await answer(channel, "/telltale.api.mesh.v1.Catalog/Register", request, metadata)


@contextlib.asynccontextmanager
async def _domain_service(attacker: Attacker, me: Workload, files: Mapping[str, bytes]) -> AsyncIterator[str]:
    """A server that proves to be the domain's service and reflects these files."""

    async def visible(_: object) -> SymbolIndex:
        return SymbolIndex(files)

    gateway = frozenset({SpiffeId(f"platform.{MESH}", "/gateway")})
    authenticator = Authenticator(attacker.trust, SERVERS, gateway)
    listen = "127.0.0.1:0"
    async with serving(
        me, listen, authenticator, lambda server: add_reflection(server, visible), grace=0.2
    ) as port:
        yield f"127.0.0.1:{port}"


# Subscribers


async def test_one_caller_has_so_many_streams_and_others_are_served(attacker: Attacker) -> None:
    greedy, modest = (
        await attacker.enrol("operators", "/greedy"),
        await attacker.enrol("operators", "/modest"),
    )
    metadata = await bearer(greedy, "platform", "servers")
    async with attacker.channel(greedy, GATEWAY) as channel:
        calls: list[Any] = []
        refused: list[grpc.aio.AioRpcError] = []
        while not refused and len(calls) < 300:
            call = opened(channel, SUBSCRIBE, b"", metadata)
            calls.append(call)
            try:
                await call.read()
            except grpc.aio.AioRpcError as failed:
                refused.append(failed)
        assert refused[0].code().name == "RESOURCE_EXHAUSTED"
        assert "end some of them first" in (refused[0].details() or "")
        async with attacker.channel(modest, GATEWAY) as other:
            code, _ = await answer(other, SUBSCRIBE, b"", await bearer(modest, "platform", "servers"))
        assert code == "OK"
        for call in calls:
            call.cancel()


async def test_a_source_has_few_push_streams_and_others_push_on(attacker: Attacker) -> None:
    hog = await attacker.enrol("servers", "/agent/hog")
    metadata = await bearer(hog, "servers")
    async with attacker.channel(hog, "servers") as channel:
        calls = [IngestStub(channel).Push(metadata=metadata) for _ in range(20)]
        ended = await asyncio.gather(*(call.initial_metadata() for call in calls), return_exceptions=True)
        refused = [one for one in ended if isinstance(one, grpc.aio.AioRpcError)]
        codes = [await call.code() for call in calls if call.done()]
        assert len(refused) or len(codes), ended
        assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert len(codes) == 16
        other = await attacker.enrol("servers", "/agent/modest")
        async with attacker.pushing(other) as call:
            await call.done_writing()
        for call in calls:
            call.cancel()


async def test_a_subscriber_that_never_reads_and_silent_connections_stall_nobody(attacker: Attacker) -> None:
    lazy = await attacker.enrol("operators", "/lazy")
    host, _, port = attacker.mesh.gateway.rpartition(":")
    with contextlib.ExitStack() as held:
        for _ in range(200):
            held.enter_context(socket.create_connection((host, int(port)), timeout=5))
        async with attacker.channel(lazy, GATEWAY) as channel:
            metadata = await bearer(lazy, "platform", "servers")
            everything = StreamSubscribeRequest(products=["servers.*"]).SerializeToString()
            calls = [opened(channel, STREAM, everything, metadata) for _ in range(20)]
            await asyncio.gather(*(call.initial_metadata() for call in calls))
            tailed = await asyncio.to_thread(
                attacker.mesh.telltale, "tail", "servers.cpu", "--earliest", "--limit", "1", "--json"
            )
            for call in calls:
                call.cancel()
    assert "spiffe://" in tailed


# Joining


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


async def test_an_authority_issues_for_its_own_domain_only(attacker: Attacker) -> None:
    agent = attacker.steal("agent")
    address = attacker.authority("operators")._authority
    async with agent.channel(address, server_name("authority", f"operators.{MESH}")) as channel:
        for method in ("IssueToken", "Renew"):
            code, detail = await answer(channel, f"/telltale.api.mesh.v1.Authority/{method}", b"")
            assert (code, "has to ask its own" in detail) == ("UNAUTHENTICATED", True)
    assert (await attacker.authority("servers").renew(agent.credentials)).spiffe_id == agent.spiffe_id
