"""A domain's service, taken over: it serves its own products, and none of another domain."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from telltale.api.mesh.v1.access_pb2 import Action, CheckRequest
from telltale.api.mesh.v1.authority_pb2 import CreateJoinTokenRequest
from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
from telltale.api.mesh.v1.catalog_pb2 import ListProductsRequest, RegisterRequest
from telltale.api.mesh.v1.catalog_pb2_grpc import CatalogStub
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.contract.image import own_image
from telltale.contract.reflection import SymbolIndex, add_reflection
from telltale.errors import BatchRefused
from telltale.identity.workload import Workload
from telltale.naming import SpiffeId
from telltale.rpc.auth import Authenticator
from telltale.rpc.client import call_metadata
from telltale.rpc.server import serving
from telltale.seal.sealing import SIGNATURE_CONTEXT
from telltale.seal.verify import Verifier
from tests.gateway.wire import domain_service, gateway_service
from tests.support.attacker import GATEWAY, MESH, MESH_API, SERVERS, Attacker, answer, bearer
from tests.support.batches import Chain, disk_usage
from tests.support.mesh import Mesh

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]

DISK_USAGE_FILE = "telltale/api/servers/v1/disk_usage.proto"
BATCH_FILE = "telltale/api/mesh/v1/batch.proto"

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


async def test_a_service_speaks_for_none_of_its_sources(attacker: Attacker) -> None:
    thief, agent = attacker.steal("services.servers"), attacker.steal("agent")
    async with attacker.channel(thief, "servers") as channel:
        metadata = await bearer(thief, "servers")
        code, detail = await answer(channel, f"{MESH_API}Ingest/Push", b"", metadata)
        assert (code, "`push`" in detail) == ("PERMISSION_DENIED", True), detail
    # What it puts into its own log in the name of a source is read by those who check it.
    forged = Chain(thief.credentials).next([disk_usage("/forged")], source=str(agent.spiffe_id))
    claimed = Header.FromString(forged.header)
    claimed.signer_sha256 = agent.credentials.thumbprint
    passed_off = SealedBatch(
        header=claimed.SerializeToString(),
        signature=thief.sign(SIGNATURE_CONTEXT + claimed.SerializeToString()),
        payload=forged.payload,
    )
    verifier = Verifier(attacker.trust)
    verifier.learn((*thief.credentials.certificates, *agent.credentials.certificates))
    for batch, reason in (
        (forged, RefusalReason.REFUSAL_REASON_FOREIGN_SOURCE),
        (passed_off, RefusalReason.REFUSAL_REASON_SIGNATURE),
    ):
        with pytest.raises(BatchRefused) as refused:
            verifier.verify(batch, datetime.now(UTC))
        assert refused.value.reason == reason


async def test_a_service_has_no_part_in_another_domain(attacker: Attacker) -> None:
    thief = attacker.steal("services.servers")
    invite = CreateJoinTokenRequest(path="/agent/mine").SerializeToString()
    check = CheckRequest(token="x").SerializeToString()
    for domain in ("analysis", "platform"):
        metadata = await bearer(thief, domain)
        async with attacker.channel(thief, domain) as channel:
            code, detail = await answer(channel, f"{MESH_API}Access/Check", check, metadata)
            assert (code, "`forward`" in detail) == ("PERMISSION_DENIED", True), detail
        async with attacker.authority_channel(thief, domain) as channel:
            code, detail = await answer(channel, f"{MESH_API}Authority/CreateJoinToken", invite, metadata)
            assert (code, "`invite`" in detail) == ("PERMISSION_DENIED", True), detail
    async with attacker.channel(thief, "analysis") as channel:
        metadata = await bearer(thief, "analysis")
        code, detail = await answer(channel, f"{MESH_API}Ingest/Push", b"", metadata)
        assert (code, "`push`" in detail) == ("PERMISSION_DENIED", True), detail


async def test_a_service_reads_no_product_of_another_domain(attacker: Attacker) -> None:
    thief = attacker.steal("services.servers")
    products = {
        "analysis": "/telltale.api.analysis.v1.Findings/Subscribe",
        "platform": "/telltale.api.platform.v1.Processes/Subscribe",
    }
    for domain, method in products.items():
        metadata = await bearer(thief, "platform", domain)
        for server in (domain, GATEWAY):
            async with attacker.channel(thief, server) as channel:
                code, detail = await answer(channel, method, b"", metadata)
                assert code == "PERMISSION_DENIED", (server, detail)


async def test_a_service_invites_nobody_into_its_own_domain(attacker: Attacker) -> None:
    thief = attacker.steal("services.servers")
    async with attacker.authority_channel(thief, "servers") as channel:
        metadata = await bearer(thief, "servers")
        invite = CreateJoinTokenRequest(path="/agent/mine").SerializeToString()
        code, detail = await answer(channel, f"{MESH_API}Authority/CreateJoinToken", invite, metadata)
    assert (code, "`invite`" in detail) == ("PERMISSION_DENIED", True), detail


async def test_a_policy_that_permits_everything_gives_away_its_own_domain_alone(tmp_path: Path) -> None:
    """The gateway asks the owner of each product, and believes it of no other."""
    mesh = Mesh.create(tmp_path, "platform", "servers", "analysis", "operators")
    reader = mesh.workload("operators", "/alice")
    async with (
        gateway_service(mesh, tmp_path) as gateway,
        domain_service(mesh, "servers") as hostile,
        domain_service(mesh, "analysis") as honest,
    ):
        await gateway.register(hostile)
        await gateway.register(honest)
        for action in (Action.ACTION_DISCOVER, Action.ACTION_SUBSCRIBE, Action.ACTION_LIST):
            for product in (*hostile.logs, *honest.logs):
                hostile.permitted.add((str(reader.spiffe_id), action, product))
        audiences = [mesh.trust_domain(one) for one in ("platform", "servers", "analysis")]
        metadata = await call_metadata(reader, *audiences)
        async with gateway.channel(reader) as channel:
            listed = await CatalogStub(channel).ListProducts(ListProductsRequest(), metadata=metadata)
            assert {entry.product.name for entry in listed.entries} == set(hostile.logs)
            code, _ = await answer(
                channel, "/telltale.api.analysis.v1.Findings/Subscribe", b"", tuple(metadata)
            )
            assert code == "PERMISSION_DENIED"
