"""An operator's laptop, taken over: it looks, as the operator may, and does nothing else."""

import asyncio
import base64
import contextlib
import json
import socket
from typing import Any

import grpc.aio
import pytest

from telltale.api.mesh.v1.access_pb2 import CheckRequest
from telltale.api.mesh.v1.authority_pb2 import CreateJoinTokenRequest
from telltale.api.mesh.v1.catalog_pb2 import ListProductsRequest, RegisterRequest
from telltale.api.mesh.v1.inventory_pb2 import SealedList
from telltale.api.mesh.v1.schemas_pb2 import RegisterSchemaRequest
from telltale.api.mesh.v1.stream_pb2 import ListRequest, StreamSubscribeRequest, SubscribeRequest
from telltale.identity.workload import Workload
from telltale.seal.sealing import sha256
from tests.support.attacker import (
    GATEWAY,
    MESH,
    MESH_API,
    SERVERS_API,
    Attacker,
    answer,
    bearer,
    opened,
)
from tests.support.batches import DISK_USAGE, SCHEMAS
from tests.support.running_mesh import eventually

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]

SUBSCRIBE = "/telltale.api.servers.v1.DiskUsage/Subscribe"
STREAM = "/telltale.api.mesh.v1.Stream/Subscribe"


async def test_an_operator_can_only_look(attacker: Attacker, eve: Workload) -> None:
    metadata = await bearer(eve, "platform", "servers")
    register = RegisterRequest(address="127.0.0.1:1").SerializeToString()
    schema = RegisterSchemaRequest(file_descriptor_set=SCHEMAS[DISK_USAGE].data).SerializeToString()
    for server, method, request, permission in (
        ("servers", "Ingest/Push", b"", "`push`"),
        ("servers", "Ingest/Chains", b"", "`push`"),
        ("servers", "Schemas/Register", schema, "`push`"),
        ("servers", "Access/Check", CheckRequest(token="x").SerializeToString(), "`forward`"),
        (GATEWAY, "Catalog/Register", register, "`register`"),
        (GATEWAY, "Ingest/Push", b"", "call the domain service itself"),
        (GATEWAY, "Access/Check", b"", "call the domain service itself"),
    ):
        async with attacker.channel(eve, server) as channel:
            code, detail = await answer(channel, MESH_API + method, request, metadata)
        assert (code, permission in detail) == ("PERMISSION_DENIED", True), (method, detail)


async def test_numbers_and_texts_that_no_database_takes_are_the_callers_mistake(
    attacker: Attacker, eve: Workload
) -> None:
    metadata = await bearer(eve, "platform", "servers")
    async with attacker.channel(eve, GATEWAY) as channel:
        for condition in (
            "cpu_count > 1e999 x",
            "(" * 1000,
            "a" * 100_000,
            'host_name = "',
            " AND ".join(["x > 1"] * 99),
        ):
            request = ListRequest(filter=condition).SerializeToString()
            assert (await answer(channel, f"{SERVERS_API}Inventory/List", request, metadata))[
                0
            ] == "INVALID_ARGUMENT"
        subscribe = SubscribeRequest()
        subscribe.cursor.positions.add(log="none", offset=(1 << 64) - 1)
        request = subscribe.SerializeToString()
        assert (await answer(channel, f"{SERVERS_API}DiskUsage/Subscribe", request, metadata))[0] == "OK"


async def test_metadata_beyond_the_limit_is_refused(attacker: Attacker, eve: Workload) -> None:
    metadata = (*await bearer(eve, "platform"), ("x-huge", "x" * 60_000))
    async with attacker.channel(eve, GATEWAY) as channel:
        request = ListProductsRequest().SerializeToString()
        code, _ = await answer(channel, f"{MESH_API}Catalog/ListProducts", request, metadata)
    assert code == "RESOURCE_EXHAUSTED"


async def test_a_forged_page_token_is_refused(attacker: Attacker, eve: Workload) -> None:
    metadata = await bearer(eve, "platform", "servers")
    async with attacker.channel(eve, GATEWAY) as channel:
        inventory = f"{SERVERS_API}Inventory/List"
        async for listed in opened(channel, inventory, b"", metadata):
            log = SealedList.FromString(listed).position.log
        query = sha256(b"").hex()[:16]
        for place in (
            [1 << 63, 1],
            [10**400, 1],
            [-1, 1],
            [1, 1 << 63],
            [1, -1],
            [1, "x"],
            [1, []],
            # No row of this inventory.
            [1, (1 << 63) - 1],
            [1, 1, 1],
        ):
            token = base64.urlsafe_b64encode(json.dumps([log, query, *place]).encode()).decode()
            request = ListRequest(page_token=token).SerializeToString()
            code, detail = await answer(channel, inventory, request, metadata)
            assert (code, "start again without it" in detail) == ("INVALID_ARGUMENT", True), place


async def test_refusals_are_counted_by_method_and_status(attacker: Attacker, eve: Workload) -> None:
    for server in ("servers", GATEWAY):
        async with attacker.channel(eve, server) as channel:
            metadata = await bearer(eve, "servers", "platform")
            assert (await answer(channel, f"{MESH_API}Ingest/Push", b"", metadata))[0] == "PERMISSION_DENIED"

    def counted() -> bool:
        rows = attacker.mesh.query(
            "SELECT DISTINCT role FROM mesh_processes WHERE metric = 'telltale.rpc.calls'"
            " AND attributes LIKE '%Ingest/Push%' AND attributes LIKE '%PERMISSION_DENIED%'"
        )
        return {row["role"] for row in rows} >= {"servers service", "gateway"}

    eventually(counted, "counts of refused calls", attacker.mesh)


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


async def test_an_operator_invites_hosts_and_receivers_and_nobody_else(
    attacker: Attacker, eve: Workload
) -> None:
    for domain in ("servers", "network", "platform", "analysis", "operators"):
        async with attacker.authority_channel(eve, domain) as channel:
            metadata = await bearer(eve, domain)
            for path, names in (
                ("/service", [f"service.{domain}.{MESH}"]),
                ("/gateway", [f"gateway.{domain}.{MESH}"]),
                ("/writer", []),
                ("/authority", []),
                ("/receiver/x", [f"service.{domain}.{MESH}"]),
                ("/reader/x", []),
                ("/mallory", []),
                ("/agent/x", [f"service.{domain}.{MESH}"]),
                ("/agent/../service", []),
                ("/agent/x/y", []),
            ):
                invite = CreateJoinTokenRequest(path=path, dns_names=names).SerializeToString()
                code, detail = await answer(channel, f"{MESH_API}Authority/CreateJoinToken", invite, metadata)
                assert code in ("PERMISSION_DENIED", "INVALID_ARGUMENT"), (domain, path, detail)
