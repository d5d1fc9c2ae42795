"""The gateway, taken over: what it changes, drops or turns around is found by those who read."""

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from telltale.api.mesh.v1.authority_pb2 import CreateJoinTokenRequest
from telltale.api.mesh.v1.batch_pb2 import Header, SealedFrame
from telltale.api.mesh.v1.catalog_pb2 import RegisterResponse
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.api.mesh.v1.schemas_pb2 import GetSchemaResponse
from telltale.api.mesh.v1.schemas_pb2_grpc import add_SchemasServicer_to_server
from telltale.api.mesh.v1.stream_pb2_grpc import add_StreamServicer_to_server
from telltale.consume import holding
from telltale.consume.delivered import Delivered
from telltale.consume.subscription import Subscription
from telltale.domain import lease
from telltale.identity.workload import Workload
from telltale.rpc.auth import Authenticator
from telltale.rpc.server import serving
from tests.support.attacker import GATEWAY, MESH, MESH_API, SERVERS_API, Attacker, answer, bearer, opened
from tests.support.batches import DISK_USAGE, Chain, disk_usage, swapped_fields
from tests.support.gateways import Gateway
from tests.support.hostile import everything
from tests.support.mesh import Mesh

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]

SUBSCRIBE = "/telltale.api.servers.v1.DiskUsage/Subscribe"


async def test_a_gateway_that_swaps_two_fields_changes_the_meaning_of_nothing(
    attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "HOLD_SECONDS", 0.5)
    gateway, hostile = attacker.steal(GATEWAY), Gateway()
    hostile.frames.append(await _real_frame(attacker, gateway))
    digest = Header.FromString(hostile.frames[0].batches[0].header).schema_sha256
    hostile.schemas = {digest: swapped_fields("used_bytes", "available_bytes")}

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


async def test_a_gateway_pushes_and_registers_for_nobody(attacker: Attacker, mallory: Workload) -> None:
    gateway = attacker.steal(GATEWAY)
    forged = Chain(gateway.credentials).next([disk_usage("/gateway")], source=str(mallory.spiffe_id))
    assert forged.header
    for domain in ("servers", "analysis"):
        async with attacker.channel(gateway, domain) as channel:
            metadata = await bearer(gateway, domain)
            for method in ("Ingest/Push", "Ingest/Chains", "Schemas/Register"):
                code, detail = await answer(channel, MESH_API + method, b"", metadata)
                assert (code, "`push`" in detail) == ("PERMISSION_DENIED", True), (method, detail)


async def test_a_gateway_reads_no_list_for_itself(attacker: Attacker) -> None:
    gateway = attacker.steal(GATEWAY)
    async with attacker.channel(gateway, "servers") as channel:
        metadata = await bearer(gateway, "servers")
        code, detail = await answer(channel, f"{SERVERS_API}Inventory/List", b"", metadata)
    assert (code, "`list`" in detail) == ("PERMISSION_DENIED", True), detail


async def test_a_gateway_makes_no_identity(attacker: Attacker) -> None:
    gateway = attacker.steal(GATEWAY)
    for domain in ("servers", "operators", "analysis", "platform"):
        async with attacker.authority_channel(gateway, domain) as channel:
            invite = CreateJoinTokenRequest(path="/agent/mine").SerializeToString()
            metadata = await bearer(gateway, domain)
            code, detail = await answer(channel, f"{MESH_API}Authority/CreateJoinToken", invite, metadata)
            assert (code, "`invite`" in detail) == ("PERMISSION_DENIED", True), detail
            if domain != "platform":
                for method in ("Renew", "IssueToken"):
                    code, detail = await answer(channel, f"{MESH_API}Authority/{method}", b"")
                    assert (code, "has to ask its own" in detail) == ("UNAUTHENTICATED", True), detail


async def test_a_gateway_that_answers_nonsense_stops_neither_services_nor_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_SHORTEST_SECONDS", 0.01)
    monkeypatch.setattr(lease, "_LONGEST_SECONDS", 0.01)
    mesh = Mesh.create(tmp_path, "platform", "servers")
    leases, schemas = (
        [b"\xff", *everything(one.DESCRIPTOR)] for one in (RegisterResponse, GetSchemaResponse)
    )
    asked_for_lease, asked_for_schema = asyncio.Event(), asyncio.Event()

    async def register(request: bytes, context: Any) -> bytes:
        if not leases:
            asked_for_lease.set()
        return leases.pop() if leases else b""

    async def schema(request: bytes, context: Any) -> bytes:
        if not schemas:
            asked_for_schema.set()
        return schemas.pop() if schemas else b""

    stream = Gateway()
    agent = mesh.workload("servers", "/agent/web1")
    await stream.add(Chain(agent.credentials).next([disk_usage("/")]), credentials=agent.credentials)

    def add(server: grpc.aio.Server) -> None:
        add_StreamServicer_to_server(stream, server)
        for service, methods in (("Catalog", {"Register": register}), ("Schemas", {"Get": schema})):
            handlers = {name: grpc.unary_unary_rpc_method_handler(one) for name, one in methods.items()}
            name = f"telltale.api.mesh.v1.{service}"
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))

    me = mesh.workload("platform", "/gateway", [mesh.server_name("gateway", "platform")])
    authenticator = Authenticator(mesh.trust, mesh.trust_domain("platform"))
    service = mesh.workload("servers", "/service")
    async with serving(me, "127.0.0.1:0", authenticator, add, grace=0.2) as port:
        address = f"127.0.0.1:{port}"
        keeping = asyncio.create_task(lease.keep_lease(service, address, "127.0.0.1:1", b"digest"))
        async with Subscription(mesh.workload("platform", "/writer"), address, ["*"]) as reading:
            taking = asyncio.ensure_future(anext(reading))
            heard = [asyncio.create_task(one.wait()) for one in (asked_for_lease, asked_for_schema)]
            await asyncio.wait([asyncio.gather(*heard), keeping, taking], return_when=asyncio.FIRST_COMPLETED)
            assert not keeping.done() and not taking.done()
            for task in (keeping, taking, *heard):
                task.cancel()
            await asyncio.gather(keeping, taking, *heard, return_exceptions=True)
