"""Attacks with real credentials on the real processes: each is refused, clearly, and touches nothing."""

import base64
import json
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from telltale.api.mesh.v1.access_pb2 import CheckRequest
from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
from telltale.api.mesh.v1.catalog_pb2 import ListProductsRequest, RegisterRequest
from telltale.api.mesh.v1.ingest_pb2 import ChainsRequest, PushResponse, RefusalReason
from telltale.api.mesh.v1.ingest_pb2_grpc import IngestStub
from telltale.api.mesh.v1.inventory_pb2 import SealedList
from telltale.api.mesh.v1.schemas_pb2 import RegisterSchemaRequest
from telltale.api.mesh.v1.stream_pb2 import ListRequest, SubscribeRequest
from telltale.identity.workload import Workload
from telltale.seal.sealing import seal, sha256
from tests.support.attacker import GATEWAY, Attacker, answer, bearer, opened
from tests.support.batches import DISK_USAGE, SCHEMAS, Chain, disk_usage, payload
from tests.support.running_mesh import RunningMesh, eventually

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]

MESH_API = "/telltale.api.mesh.v1."
SERVERS_API = "/telltale.api.servers.v1."


@pytest.fixture
def attacker(mesh: RunningMesh) -> Attacker:
    return Attacker(mesh)


@pytest.fixture
async def mallory(attacker: Attacker) -> Workload:
    """An agent of the mesh that has turned hostile."""
    return await attacker.enrol("servers", "/agent/mallory")


@pytest.fixture
async def eve(attacker: Attacker) -> Workload:
    """An operator who wants more than to look."""
    return await attacker.enrol("operators", "/eve")


@pytest.fixture(autouse=True)
async def still_standing(mesh: RunningMesh) -> AsyncIterator[None]:
    """After every attack the same processes run on, and none of them was surprised."""
    members = {module: mesh.pid(module) for module in MEMBERS}
    yield
    assert {module: mesh.pid(module) for module in MEMBERS} == members
    for log in (mesh.home / "logs").glob("*.log"):
        assert "call failed" not in log.read_text(), mesh.logs()


MEMBERS = (
    "certs",
    "services.platform",
    "gateway",
    "services.servers",
    "services.writer",
    "services.analysis",
    "agent",
)


def epoch() -> int:
    return time.time_ns() // 1_000_000


def reasons(response: PushResponse) -> list[str]:
    assert not response.acks
    return [RefusalReason.Name(one.reason).removeprefix("REFUSAL_REASON_") for one in response.refusals]


def stored(mesh: RunningMesh, mountpoint: str) -> int:
    return int(
        mesh.query(f"SELECT count(*) AS n FROM servers_disk_usage WHERE mountpoint = '{mountpoint}'")[0]["n"]
    )


# Pushing


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
        "FUTURE": [with_sealed_time(int(time.time()) + 3600)],
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


# Calling


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


async def test_nobody_speaks_for_others(attacker: Attacker, eve: Workload, mallory: Workload) -> None:
    (_, stolen) = (await bearer(mallory, "servers"))[0]
    claim = ("telltale-on-behalf-of", stolen.removeprefix("Bearer "))
    for who in (eve, attacker.steal("services.writer"), mallory):
        for server in ("servers", GATEWAY):
            metadata = (*await bearer(who, "servers", "platform"), claim)
            method = "Ingest/Chains" if server == "servers" else "Catalog/ListProducts"
            async with attacker.channel(who, server) as channel:
                code, detail = await answer(channel, MESH_API + method, b"", metadata)
            assert (code, "may not speak for others" in detail) == ("UNAUTHENTICATED", True), detail
    # The gateway may, and even so pushes for nobody.
    gateway = attacker.steal(GATEWAY)
    async with attacker.channel(gateway, "servers") as channel:
        metadata = (*await bearer(gateway, "servers"), claim)
        code, detail = await answer(channel, f"{MESH_API}Ingest/Chains", b"", metadata)
    assert (code, "cannot be forwarded" in detail) == ("INVALID_ARGUMENT", True)


async def test_a_token_is_good_for_its_owner_and_its_audience(
    attacker: Attacker, eve: Workload, mallory: Workload
) -> None:
    good = await bearer(eve, "platform")
    tampered = (("authorization", good[0][1][:-8] + "AAAAAAAA"),)
    for metadata, advice in (
        ((), "add the metadata"),
        (await bearer(mallory, "platform"), "bound to another certificate"),
        (await bearer(eve, "servers"), "not meant for platform"),
        ((*good, *good), "send it once"),
        (tampered, "fetch a new one"),
        ((("authorization", "Bearer none.none.none"),), "fetch a new one"),
    ):
        async with attacker.channel(eve, GATEWAY) as channel:
            for method in (
                f"{MESH_API}Catalog/ListProducts",
                f"{SERVERS_API}DiskUsage/Subscribe",
                "/no.Such/Method",
            ):
                code, detail = await answer(channel, method, b"", metadata)
                assert (code, advice in detail) == ("UNAUTHENTICATED", True), (method, detail)


async def test_random_bytes_on_any_method_are_the_callers_mistake(
    attacker: Attacker, eve: Workload, mallory: Workload
) -> None:
    chance = random.Random(1)
    methods = [
        f"{MESH_API}{one}" for one in ("Ingest/Push", "Ingest/Chains", "Schemas/Register", "Schemas/Get")
    ]
    methods += [f"{MESH_API}{one}" for one in ("Access/Check", "Catalog/ListProducts", "Stream/Subscribe")]
    methods += [f"{SERVERS_API}{one}" for one in ("DiskUsage/Subscribe", "Inventory/List", "Inventory/Watch")]
    methods += [f"/grpc.reflection.{one}.ServerReflection/ServerReflectionInfo" for one in ("v1", "v1alpha")]
    methods += ["/grpc.health.v1.Health/Check"]
    for who, server in ((mallory, "servers"), (eve, GATEWAY)):
        metadata = await bearer(who, "servers", "platform")
        async with attacker.channel(who, server) as channel:
            for method in methods:
                # No message begins with field 31 of wire type 7.
                code, detail = await answer(channel, method, b"\xff" + chance.randbytes(60), metadata)
                assert code in ("INVALID_ARGUMENT", "PERMISSION_DENIED", "UNIMPLEMENTED"), (
                    method,
                    code,
                    detail,
                )
                assert "traceback" not in detail


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


async def test_the_chains_of_others_stay_unknown(attacker: Attacker, mallory: Workload) -> None:
    async with attacker.channel(mallory, "servers") as channel:
        chains = await IngestStub(channel).Chains(ChainsRequest(), metadata=await bearer(mallory, "servers"))
    # The agent's chains of the other products are there, and are none of mallory's business.
    assert {chain.product for chain in chains.chains} <= {DISK_USAGE}


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
