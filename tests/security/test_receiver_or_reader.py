"""A receiver or a reader, taken over: it speaks of others in its own domain, and does nothing else."""

import socket

import psutil
import pytest

from telltale.api.mesh.v1.authority_pb2 import CreateJoinTokenRequest
from telltale.api.mesh.v1.batch_pb2 import Header, Origin
from telltale.api.mesh.v1.catalog_pb2 import RegisterRequest
from telltale.errors import BatchRefused
from telltale.identity.workload import Workload
from telltale.seal.verify import check_owner
from tests.support.attacker import GATEWAY, MESH, MESH_API, SERVERS_API, Attacker, answer, bearer
from tests.support.batches import Chain, disk_usage
from tests.support.datagrams import v5, v5_record
from tests.support.running_mesh import eventually

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


def test_a_receiver_binds_what_its_manifest_lists_and_nothing_else(attacker: Attacker) -> None:
    receiver = psutil.Process(attacker.mesh.pid("agent.receiver"))
    bound = [one for one in receiver.net_connections(kind="inet") if not one.raddr]
    assert [(one.type, tuple(one.laddr)) for one in bound] == [(socket.SOCK_DGRAM, attacker.mesh.flows)]
    for one in receiver.net_connections(kind="unix"):
        assert not one.laddr, one


def test_a_receiver_hears_nobody_whom_its_manifest_does_not_permit(attacker: Attacker) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.2", 0))
        stranger.sendto(v5(v5_record(source="192.0.2.66")), attacker.mesh.flows)
    refused = eventually(
        lambda: attacker.mesh.query(
            "SELECT datagrams, state FROM network_exporters WHERE address = '127.0.0.2'"
        ),
        "a row of the stranger",
        attacker.mesh,
    )
    assert refused == [{"datagrams": 1, "state": "REFUSED"}]
    heard = attacker.mesh.query("SELECT count(*) AS n FROM network_flows WHERE source_address = '192.0.2.66'")
    assert not heard or heard == [{"n": 0}]


async def test_a_receiver_cannot_seal_as_if_devices_had_signed(attacker: Attacker) -> None:
    me = await attacker.enrol("network", "/receiver/mallory")
    source = str(me.spiffe_id)
    assert source == f"spiffe://network.{MESH}/receiver/mallory"
    claims = Header(product="network.flows", source=source, origin=Origin.ORIGIN_AUTHENTICATED)
    with pytest.raises(BatchRefused, match="observes others, and seals as if it spoke of itself"):
        check_owner(claims, open_to_all=False, mesh=MESH)
    honest = Header(product="network.flows", source=source, origin=Origin.ORIGIN_OBSERVED)
    check_owner(honest, open_to_all=False, mesh=MESH)
    # And in its own domain alone.
    with pytest.raises(BatchRefused, match="belongs to another domain"):
        foreign = Header(product="servers.cpu", source=source, origin=Origin.ORIGIN_OBSERVED)
        check_owner(foreign, open_to_all=False, mesh=MESH)
