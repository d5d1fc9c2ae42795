"""A receiver or a reader, taken over: an identity of its domain for which no policy has a rule yet."""

import pytest

from telltale.api.mesh.v1.authority_pb2 import CreateJoinTokenRequest
from telltale.api.mesh.v1.catalog_pb2 import RegisterRequest
from telltale.identity.workload import Workload
from tests.support.attacker import GATEWAY, MESH_API, SERVERS_API, Attacker, answer, bearer
from tests.support.batches import Chain, disk_usage

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]

PATHS = ("/receiver/x", "/reader/x")


@pytest.fixture(params=PATHS)
async def taken(attacker: Attacker, request: pytest.FixtureRequest) -> Workload:
    return await attacker.enrol("servers", request.param)


async def test_a_receiver_or_reader_hands_in_nothing_of_its_domain(
    attacker: Attacker, taken: Workload
) -> None:
    batch = Chain(taken.credentials).next([disk_usage("/received")])
    assert batch.header
    async with attacker.channel(taken, "servers") as channel:
        metadata = await bearer(taken, "servers")
        for method in ("Ingest/Push", "Ingest/Chains", "Schemas/Register"):
            code, detail = await answer(channel, MESH_API + method, b"", metadata)
            assert (code, "`push`" in detail) == ("PERMISSION_DENIED", True), detail


async def test_a_receiver_or_reader_reads_nothing(attacker: Attacker, taken: Workload) -> None:
    metadata = await bearer(taken, "platform", "servers")
    for server in ("servers", GATEWAY):
        async with attacker.channel(taken, server) as channel:
            for method in ("DiskUsage/Subscribe", "Inventory/List", "Inventory/Watch"):
                code, detail = await answer(channel, SERVERS_API + method, b"", metadata)
                assert code == "PERMISSION_DENIED", detail


async def test_a_receiver_or_reader_registers_and_invites_nobody(attacker: Attacker, taken: Workload) -> None:
    register = RegisterRequest(address="127.0.0.1:1").SerializeToString()
    async with attacker.channel(taken, GATEWAY) as channel:
        metadata = await bearer(taken, "platform")
        code, detail = await answer(channel, f"{MESH_API}Catalog/Register", register, metadata)
        assert (code, "`register`" in detail) == ("PERMISSION_DENIED", True), detail
    invite = CreateJoinTokenRequest(path="/agent/another").SerializeToString()
    async with attacker.authority_channel(taken, "servers") as channel:
        metadata = await bearer(taken, "servers")
        code, detail = await answer(channel, f"{MESH_API}Authority/CreateJoinToken", invite, metadata)
        assert (code, "`invite`" in detail) == ("PERMISSION_DENIED", True), detail
