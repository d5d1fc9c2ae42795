"""A domain's service, taken over: it serves its own products, and none of another domain."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from telltale.api.mesh.v1.catalog_pb2 import RegisterRequest
from telltale.contract.image import own_image
from telltale.contract.reflection import SymbolIndex, add_reflection
from telltale.identity.workload import Workload
from telltale.naming import SpiffeId
from telltale.rpc.auth import Authenticator
from telltale.rpc.server import serving
from tests.support.attacker import GATEWAY, MESH, SERVERS, Attacker, answer, bearer

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
