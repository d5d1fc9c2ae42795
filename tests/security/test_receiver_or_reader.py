"""A receiver or a reader, taken over: it speaks of others in its own domain, and does nothing else."""

import socket

import psutil
import pytest

from telltale.api.mesh.v1.authority_pb2 import CreateJoinTokenRequest
from telltale.api.mesh.v1.batch_pb2 import Origin, SealedBatch
from telltale.api.mesh.v1.catalog_pb2 import RegisterRequest
from telltale.api.mesh.v1.ingest_pb2 import PushRequest, PushResponse, RefusalReason
from telltale.api.mesh.v1.ingest_pb2_grpc import IngestStub
from telltale.identity.workload import Workload
from tests.support.attacker import GATEWAY, MESH_API, SERVERS_API, Attacker, answer, bearer
from tests.support.batches import Chain, disk_usage
from tests.support.datagrams import v5, v5_record
from tests.support.running_mesh import eventually

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]

PATHS = ("/receiver/x", "/reader/x")
RECEIVER = "/receiver/mallory"
FLOWS = "network.flows"
# It is asked for when all else is right.
NO_SCHEMA = bytes(32)
NETWORK_API = "/telltale.api.network.v1."


@pytest.fixture
async def receiver(attacker: Attacker) -> Workload:
    """Of the domain that receivers are for, whose policy lets them push."""
    return await attacker.enrol("network", RECEIVER)


@pytest.fixture(params=PATHS)
async def taken(attacker: Attacker, request: pytest.FixtureRequest) -> Workload:
    return await attacker.enrol("servers", request.param)


async def test_a_receiver_or_reader_hands_in_nothing_of_its_domain(
    attacker: Attacker, taken: Workload
) -> None:
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


async def test_a_receiver_reads_nothing_of_the_domain_that_it_pushes_to(
    attacker: Attacker, receiver: Workload
) -> None:
    metadata = await bearer(receiver, "platform", "network")
    for server in ("network", GATEWAY):
        async with attacker.channel(receiver, server) as channel:
            for method in ("Flows/Subscribe", "Exporters/Subscribe", "Exporters/List", "Exporters/Watch"):
                code, detail = await answer(channel, NETWORK_API + method, b"", metadata)
                assert code == "PERMISSION_DENIED", detail


@pytest.mark.parametrize(("domain", "path"), [("servers", path) for path in PATHS] + [("network", RECEIVER)])
async def test_a_receiver_or_reader_registers_and_invites_nobody(
    attacker: Attacker, domain: str, path: str
) -> None:
    taken = await attacker.enrol(domain, path)
    register = RegisterRequest(address="127.0.0.1:1").SerializeToString()
    async with attacker.channel(taken, GATEWAY) as channel:
        metadata = await bearer(taken, "platform")
        code, detail = await answer(channel, f"{MESH_API}Catalog/Register", register, metadata)
        assert (code, "`register`" in detail) == ("PERMISSION_DENIED", True), detail
    invite = CreateJoinTokenRequest(path="/agent/another").SerializeToString()
    async with attacker.authority_channel(taken, domain) as channel:
        metadata = await bearer(taken, domain)
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


async def refusals(attacker: Attacker, receiver: Workload, batch: SealedBatch) -> list[tuple[str, str]]:
    """What its own domain answers to a batch that it pushes."""
    metadata = await bearer(receiver, "network")
    async with attacker.channel(receiver, "network") as channel:
        call = IngestStub(channel).Push(metadata=metadata)
        await call.initial_metadata()
        await call.write(PushRequest(batches=[batch], certificates=receiver.credentials.certificates))
        await call.done_writing()
        response = PushResponse()
        async for each in call:
            response.MergeFrom(each)
    assert not response.acks
    return [(RefusalReason.Name(one.reason), one.detail) for one in response.refusals]


async def test_a_receiver_cannot_seal_as_if_devices_had_signed(
    attacker: Attacker, receiver: Workload
) -> None:
    claims = Chain(receiver.credentials, FLOWS).next(
        encoded=b"", schema_sha256=NO_SCHEMA, origin=Origin.ORIGIN_AUTHENTICATED
    )
    ((reason, detail),) = await refusals(attacker, receiver, claims)
    assert reason == "REFUSAL_REASON_FOREIGN_SOURCE"
    assert "observes others, and seals as if it spoke of itself" in detail
    # It is for that word alone: an honest one is asked for its schema next.
    honest = Chain(receiver.credentials, FLOWS).next(
        encoded=b"", schema_sha256=NO_SCHEMA, origin=Origin.ORIGIN_OBSERVED
    )
    ((reason, _),) = await refusals(attacker, receiver, honest)
    assert reason == "REFUSAL_REASON_UNKNOWN_SCHEMA"


async def test_a_receiver_cannot_speak_in_another_domain_or_for_another_receiver(
    attacker: Attacker, receiver: Workload
) -> None:
    other = attacker.steal("agent.receiver")
    assert other.spiffe_id != receiver.spiffe_id
    named = Chain(receiver.credentials, FLOWS).next(
        encoded=b"", schema_sha256=NO_SCHEMA, origin=Origin.ORIGIN_OBSERVED, source=str(other.spiffe_id)
    )
    sealed = Chain(other.credentials, FLOWS).next(
        encoded=b"", schema_sha256=NO_SCHEMA, origin=Origin.ORIGIN_OBSERVED
    )
    foreign = Chain(receiver.credentials).next([disk_usage("/")], origin=Origin.ORIGIN_OBSERVED)
    told = [await refusals(attacker, receiver, batch) for batch in (named, sealed, foreign)]
    reasons = ("FOREIGN_SOURCE", "FOREIGN_SOURCE", "PERMISSION")
    assert [[reason for reason, _ in each] for each in told] == [[f"REFUSAL_REASON_{one}"] for one in reasons]
