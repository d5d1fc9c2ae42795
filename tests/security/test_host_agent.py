"""A host's agent, taken over with its key: it speaks of its own host, and reads and reaches nothing."""

import asyncio
import contextlib
import time
from typing import Any

import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from telltale.api.mesh.v1.access_pb2 import CheckRequest
from telltale.api.mesh.v1.authority_pb2 import CreateJoinTokenRequest, RenewRequest
from telltale.api.mesh.v1.authority_pb2_grpc import AuthorityStub
from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
from telltale.api.mesh.v1.catalog_pb2 import RegisterRequest
from telltale.api.mesh.v1.ingest_pb2 import ChainsRequest, PushResponse, RefusalReason
from telltale.api.mesh.v1.ingest_pb2_grpc import IngestStub
from telltale.api.mesh.v1.schemas_pb2 import RegisterSchemaRequest
from telltale.identity.credentials import Credentials
from telltale.identity.keys import new_key
from telltale.identity.workload import Workload
from telltale.seal.sealing import seal, sha256
from tests.support.attacker import (
    GATEWAY,
    MESH_API,
    SERVERS,
    SERVERS_API,
    Attacker,
    HeldCalls,
    answer,
    bearer,
)
from tests.support.batches import DISK_USAGE, Chain, disk_usage, payload, swapped_fields
from tests.support.running_mesh import RunningMesh, eventually

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]


def epoch() -> int:
    return time.time_ns() // 1_000_000


def reasons(response: PushResponse) -> list[str]:
    assert not response.acks
    return [RefusalReason.Name(one.reason).removeprefix("REFUSAL_REASON_") for one in response.refusals]


def stored(mesh: RunningMesh, mountpoint: str) -> int:
    return int(
        mesh.query(f"SELECT count(*) AS n FROM servers_disk_usage WHERE mountpoint = '{mountpoint}'")[0]["n"]
    )


async def test_an_agent_cannot_push_for_another_source(attacker: Attacker, mallory: Workload) -> None:
    agent = attacker.steal("agent")
    forged = Chain(mallory.credentials, epoch=epoch()).next(
        [disk_usage("/forged")], source=str(agent.spiffe_id)
    )
    replayed = Chain(agent.credentials, epoch=epoch()).next([disk_usage("/forged")])
    certificates = (*agent.credentials.certificates, *mallory.credentials.certificates)
    said = await attacker.push(mallory, forged, replayed, certificates=certificates)
    assert reasons(said) == ["FOREIGN_SOURCE", "FOREIGN_SOURCE"]
    assert str(mallory.spiffe_id) in said.refusals[0].detail
    assert stored(attacker.mesh, "/forged") == 0


async def test_a_flipped_bit_and_a_forged_header_do_not_hold(attacker: Attacker, mallory: Workload) -> None:
    chain = Chain(mallory.credentials, epoch=epoch())
    flipped, forged = chain.next([disk_usage("/flipped")]), chain.next([disk_usage("/flipped")])
    flipped.payload = bytes([flipped.payload[0] ^ 1, *flipped.payload[1:]])
    header = Header.FromString(forged.header)
    header.record_count += 1
    forged.header = header.SerializeToString()
    assert reasons(await attacker.push(mallory, flipped, forged)) == ["SIGNATURE", "SIGNATURE"]
    assert stored(attacker.mesh, "/flipped") == 0


async def test_headers_that_lie_are_refused_with_the_reason(attacker: Attacker, mallory: Workload) -> None:
    def sealed(**overrides: Any) -> SealedBatch:
        return Chain(mallory.credentials, epoch=epoch()).next([disk_usage("/lies")], **overrides)

    def with_sealed_time(seconds: int) -> SealedBatch:
        header = Header.FromString(sealed().header)
        header.sealed_time.seconds = seconds
        return seal(mallory.credentials, header, payload(DISK_USAGE, [disk_usage("/lies")]))

    lies = {
        "MALFORMED": [
            sealed(epoch=1 << 63),
            sealed(sequence=(1 << 64) - 1),
            sealed(product="no product"),
            sealed(source="spiffe://\x1b[31m/x"),
            with_sealed_time(1 << 62),
            SealedBatch(header=b"\xff\xff", signature=b"none"),
            SealedBatch(),
        ],
        "TOO_LARGE": [sealed(record_count=(1 << 32) - 1)],
        "PERMISSION": [sealed(replay_run="past")],
        "FUTURE": [with_sealed_time(int(time.time()) + 3600), sealed(epoch=epoch() + 3_600_000)],
    }
    for reason, batches in lies.items():
        assert reasons(await attacker.push(mallory, *batches)) == [reason] * len(batches)
    assert stored(attacker.mesh, "/lies") == 0


async def test_a_replayed_batch_is_acked_again_and_stored_once(attacker: Attacker, mallory: Workload) -> None:
    batch = Chain(mallory.credentials, epoch=epoch()).next([disk_usage("/replayed")])
    for _ in range(2):
        assert len((await attacker.push(mallory, batch, batch)).acks) == 2
    # What comes behind it shows that the writer has passed the place of a second copy.
    await attacker.push(mallory, Chain(mallory.credentials, epoch=epoch()).next([disk_usage("/behind")]))
    eventually(lambda: stored(attacker.mesh, "/behind"), "the batch behind the replayed one", attacker.mesh)
    assert stored(attacker.mesh, "/replayed") == 1


async def test_a_fork_is_refused_and_becomes_a_finding(attacker: Attacker) -> None:
    clone = await attacker.enrol("servers", "/agent/clone")
    at = epoch()
    first = Chain(clone.credentials, epoch=at).next([disk_usage("/first")])
    second = Chain(clone.credentials, epoch=at).next([disk_usage("/second")])
    assert len((await attacker.push(clone, first)).acks) == 1
    assert reasons(await attacker.push(clone, second)) == ["FORK"]

    def found() -> list[object]:
        rows = attacker.mesh.json("findings")
        return [row for row in rows if "clone" in str(row) and "critical" in str(row).lower()]

    eventually(found, "a finding about the fork", attacker.mesh)
    assert stored(attacker.mesh, "/second") == 0


async def test_times_and_payloads_that_mean_nothing_stop_nobody(
    attacker: Attacker, mallory: Workload
) -> None:
    at = epoch()
    header = Header.FromString(Chain(mallory.credentials, epoch=at).next([disk_usage("/odd")]).header)
    header.first_event_time.seconds, header.last_event_time.nanos = -(1 << 62), -5
    odd = seal(mallory.credentials, header, payload(DISK_USAGE, [disk_usage("/odd")]))
    header.previous_header_sha256, header.sequence = sha256(odd.header), 2
    broken = seal(mallory.credentials, header, b"\xff\xff\xff")
    header.previous_header_sha256, header.sequence = sha256(broken.header), 3
    whole = seal(mallory.credentials, header, payload(DISK_USAGE, [disk_usage("/whole")]))
    await attacker.push(mallory, odd, broken, whole)
    # Whether the odd ones are refused or quarantined: what others push goes through behind them.
    peter = await attacker.enrol("servers", "/agent/peter")
    await attacker.push(peter, Chain(peter.credentials, epoch=at).next([disk_usage("/peter")]))
    eventually(lambda: stored(attacker.mesh, "/peter"), "the batch of another agent", attacker.mesh)


@pytest.mark.parametrize("size", [9_000_000, 100_000_000])
async def test_a_message_beyond_the_limit_is_refused(
    attacker: Attacker, mallory: Workload, size: int
) -> None:
    async with attacker.channel(mallory, "servers") as channel:
        code, detail = await answer(
            channel, f"{MESH_API}Ingest/Push", b"\x00" * size, await bearer(mallory, "servers")
        )
    assert (code, "larger than max" in detail) == ("RESOURCE_EXHAUSTED", True)


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


async def test_an_agent_reads_nothing(attacker: Attacker, mallory: Workload) -> None:
    metadata = await bearer(mallory, "platform", "servers")
    for server in ("servers", GATEWAY):
        async with attacker.channel(mallory, server) as channel:
            for method, permission in (
                ("DiskUsage/Subscribe", "`subscribe` on servers.disk_usage"),
                ("Inventory/List", "`list` on servers.inventory"),
                ("Inventory/Watch", "`subscribe` on servers.inventory"),
            ):
                code, detail = await answer(channel, SERVERS_API + method, b"", metadata)
                assert (code, permission in detail) == ("PERMISSION_DENIED", True), detail


async def test_the_chains_of_others_stay_unknown(attacker: Attacker, mallory: Workload) -> None:
    async with attacker.channel(mallory, "servers") as channel:
        chains = await IngestStub(channel).Chains(ChainsRequest(), metadata=await bearer(mallory, "servers"))
    # The agent's chains of the other products are there, and are none of mallory's business.
    assert {chain.product for chain in chains.chains} <= {DISK_USAGE}


async def test_an_agent_cannot_change_what_its_products_mean(attacker: Attacker, mallory: Workload) -> None:
    metadata = await bearer(mallory, "servers")
    swapped = swapped_fields("used_bytes", "available_bytes")
    register = RegisterSchemaRequest(file_descriptor_set=swapped).SerializeToString()
    async with attacker.channel(mallory, "servers") as channel:
        code, detail = await answer(channel, f"{MESH_API}Schemas/Register", register, metadata)
    assert code == "FAILED_PRECONDITION", detail
    lie = Chain(mallory.credentials, epoch=epoch()).next(
        [disk_usage("/swapped")], schema_sha256=sha256(swapped)
    )
    assert reasons(await attacker.push(mallory, lie)) == ["UNKNOWN_SCHEMA"]
    assert stored(attacker.mesh, "/swapped") == 0


async def test_an_agent_gets_no_identity_but_its_own(attacker: Attacker, mallory: Workload) -> None:
    # A signing request may name whom it wants: the certificate names who asked.
    key = new_key()
    wanted = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{SERVERS}/service")])
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "service")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(wanted, critical=True)
    der = request.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    async with attacker.authority_channel(mallory, "servers") as channel:
        renewed = await AuthorityStub(channel).Renew(RenewRequest(signing_request=der))
        assert Credentials(key, tuple(renewed.certificates)).spiffe_id == mallory.spiffe_id
        invite = CreateJoinTokenRequest(path="/agent/another").SerializeToString()
        metadata = await bearer(mallory, "servers")
        code, detail = await answer(channel, f"{MESH_API}Authority/CreateJoinToken", invite, metadata)
    assert (code, "`invite`" in detail) == ("PERMISSION_DENIED", True), detail


async def test_an_agent_that_opens_thousands_of_calls_keeps_nobody_else_from_a_token(
    attacker: Attacker, mallory: Workload
) -> None:
    most = 64
    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(attacker.authority_channel(mallory, "servers")) for _ in range(50)
        ]
        # An IssueToken that never comes: its headers alone would hold a call of the authority.
        held = HeldCalls(channels, f"{MESH_API}Authority/IssueToken", 3_000)
        await stack.enter_async_context(held)
        (said,) = await held.refused(3_000 - most)
        assert said.startswith(f"{mallory.spiffe_id} has {most} calls open at this server")
        other = attacker.steal("agent")
        assert await other.token(SERVERS)


async def test_an_agent_registers_nothing_and_decides_for_nobody(
    attacker: Attacker, mallory: Workload
) -> None:
    register = RegisterRequest(address="127.0.0.1:1").SerializeToString()
    async with attacker.channel(mallory, GATEWAY) as channel:
        metadata = await bearer(mallory, "platform")
        code, detail = await answer(channel, f"{MESH_API}Catalog/Register", register, metadata)
        assert (code, "`register`" in detail) == ("PERMISSION_DENIED", True), detail
    check = CheckRequest(token="x").SerializeToString()
    async with attacker.channel(mallory, "servers") as channel:
        metadata = await bearer(mallory, "servers")
        code, detail = await answer(channel, f"{MESH_API}Access/Check", check, metadata)
        assert (code, "`forward`" in detail) == ("PERMISSION_DENIED", True), detail


async def test_an_agent_tells_nothing_in_the_name_of_the_mesh(attacker: Attacker, mallory: Workload) -> None:
    """What services say of refusals and of decisions becomes findings: a host could accuse another one."""
    async with attacker.channel(mallory, "platform") as channel:
        metadata = await bearer(mallory, "platform")
        for method in ("Ingest/Push", "Ingest/Chains"):
            code, detail = await answer(channel, MESH_API + method, b"", metadata)
            assert (code, "`push`" in detail) == ("PERMISSION_DENIED", True), detail
