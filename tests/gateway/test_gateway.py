"""The gateway on the wire: leases, catalog, permissions, streams, routing, reflection."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from gateway import proxy, subscription
from telltale.api.mesh.v1.access_pb2 import ACTION_DISCOVER, ACTION_LIST, ACTION_SUBSCRIBE, ACTION_WATCH
from telltale.api.mesh.v1.batch_pb2 import Cursor, Delivery, GapReason, Position, SealedFrame
from telltale.api.mesh.v1.catalog_pb2 import (
    CATALOG_STATE_LIVE,
    CATALOG_STATE_UNREACHABLE,
    CatalogEntry,
    CatalogState,
    ListProductsRequest,
)
from telltale.api.mesh.v1.catalog_pb2_grpc import CatalogStub
from telltale.api.mesh.v1.schemas_pb2 import GetSchemaRequest
from telltale.api.mesh.v1.schemas_pb2_grpc import SchemasStub
from telltale.api.mesh.v1.stream_pb2 import START_LATEST, StreamSubscribeRequest, SubscribeRequest
from telltale.api.mesh.v1.stream_pb2_grpc import StreamStub
from telltale.api.servers.v1.disk_usage_pb2_grpc import DiskUsageStub
from telltale.contract import Schema, contracts_in, own_image
from telltale.contract.reflection import pull
from telltale.identity.workload import Workload
from telltale.rpc.bounds import MEMBERS
from telltale.rpc.client import call_metadata
from tests.gateway.wire import FakeDomain, Gateway, domain_service, gateway_service
from tests.support.mesh import Mesh, MeshIssuer

DISK_USAGE = "servers.disk_usage"
INVENTORY = "servers.inventory"
READ = (ACTION_DISCOVER, ACTION_SUBSCRIBE, ACTION_LIST)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh.create(tmp_path_factory.mktemp("mesh"), "platform", "servers", "network", "operators")


@pytest.fixture
def operator(mesh: Mesh) -> Workload:
    return mesh.workload("operators", "/alice")


@pytest.fixture
async def gateway(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway_service(mesh, tmp_path) as one:
        yield one


@pytest.fixture
async def servers(mesh: Mesh) -> AsyncIterator[FakeDomain]:
    async with domain_service(mesh, "servers") as one:
        yield one


async def entries(gateway: Gateway, who: Workload) -> dict[str, CatalogEntry]:
    async with gateway.channel(who) as channel:
        response = await CatalogStub(channel).ListProducts(
            ListProductsRequest(), metadata=await gateway.metadata(who), timeout=10
        )
    return {entry.product.name: entry for entry in response.entries}


async def state(gateway: Gateway, who: Workload, wanted: CatalogState) -> CatalogEntry:
    """The product's entry as soon as it is in that state; asking takes its time on the wire."""
    async with asyncio.timeout(10):
        while True:
            entry = (await entries(gateway, who))[DISK_USAGE]
            if entry.state == wanted:
                return entry


@asynccontextmanager
async def streaming(
    gateway: Gateway, who: Workload, *products: str, **request: Any
) -> AsyncIterator[Callable[[int], Any]]:
    """A stream over products; the function that it yields reads so many batches' places, and gaps."""
    async with gateway.channel(who) as channel:
        call = StreamStub(channel).Subscribe(
            StreamSubscribeRequest(products=products, **request),
            metadata=await gateway.metadata(who),
            timeout=30,
        )
        try:
            yield lambda count: places(call, count)
        finally:
            call.cancel()


async def places(call: Any, count: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < count:
        data = await call.read()
        assert data is not grpc.aio.EOF, "the stream ended"
        frame = data if isinstance(data, SealedFrame) else SealedFrame.FromString(data.SerializeToString())
        if frame.HasField("gap"):
            found.append(frame.gap.reason)
        for batch in frame.batches:
            delivery = Delivery.FromString(batch.delivery)
            found.append((delivery.log, delivery.offset))
    return found


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_registered_product_is_live_and_is_counted(
    gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    servers.permit(operator, ACTION_DISCOVER)
    lease = await gateway.register(servers)
    assert lease.lease.seconds == 15
    log = servers.logs[DISK_USAGE]
    async with asyncio.timeout(10):
        # The upstream starts with what arrives next: append until it is there.
        while not (entry := (await entries(gateway, operator))[DISK_USAGE]).batches:
            log.append()
    assert entry.state == CATALOG_STATE_LIVE
    assert entry.service == "telltale.api.servers.v1.DiskUsage"
    assert entry.description.startswith("How full every mounted filesystem is")
    assert entry.trust_domain == "servers.telltale.test"
    assert entry.records == entry.batches


async def test_the_catalog_and_reflection_show_what_the_owner_lets_discover(
    gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    await gateway.register(servers)
    assert await entries(gateway, operator) == {}
    servers.permitted.add((str(operator.spiffe_id), ACTION_DISCOVER, INVENTORY))
    other = gateway.mesh.workload("operators", "/bob")
    servers.permitted.add((str(other.spiffe_id), ACTION_DISCOVER, INVENTORY))
    assert set(await entries(gateway, other)) == {INVENTORY}
    async with gateway.channel(other) as channel:
        files = await pull(channel, await gateway.metadata(other))
    assert "telltale/api/servers/v1/inventory.proto" in files
    assert "telltale/api/servers/v1/disk_usage.proto" not in files
    assert b"How full" not in b"".join(files.values())
    # Comments travel too.
    assert b"What a host is" in files["telltale/api/servers/v1/inventory.proto"]


async def test_a_token_is_shown_to_no_domain_that_it_does_not_name(
    gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    await gateway.register(servers)
    servers.permitted.add((str(operator.spiffe_id), ACTION_DISCOVER, INVENTORY))
    narrow = await call_metadata(operator, gateway.mesh.trust_domain("platform"))
    async with gateway.channel(operator) as channel:
        response = await CatalogStub(channel).ListProducts(ListProductsRequest(), metadata=narrow, timeout=10)
        listing = channel.unary_unary("/telltale.api.servers.v1.Inventory/List")
        error = await refused(listing(b"", metadata=narrow, timeout=10))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED and "not meant for" in (error.details() or "")
    seen = {name for name, _ in servers.calls}
    assert not response.entries and not {name for name in seen if name == "Check" or name.endswith("/List")}
    assert INVENTORY in await entries(gateway, operator)
    assert "Check" in [name for name, _ in servers.calls]


async def test_a_stream_joins_history_and_live_over_many_products(
    gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    servers.permit(operator, *READ)
    for log in servers.logs.values():
        log.append(5)
    await gateway.register(servers)
    async with streaming(gateway, operator, DISK_USAGE, "servers.inv*") as read:
        first = await read(10)
        for log in servers.logs.values():
            log.append(3)
        rest = await read(6)
    assert len(first) == 10 and len(rest) == 6
    for name in (DISK_USAGE, INVENTORY):
        assert servers.logs[name].appended


async def test_a_domain_that_moves_while_its_old_address_lives_is_followed(
    mesh: Mesh, gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    servers.permit(operator, *READ)
    await gateway.register(servers)
    async with domain_service(mesh, "servers") as moved:
        moved.permitted, moved.logs = servers.permitted, servers.logs
        async with streaming(gateway, operator, DISK_USAGE) as read:
            log = servers.logs[DISK_USAGE]
            log.append()
            await read(1)
            await state(gateway, operator, CATALOG_STATE_LIVE)
            await gateway.register(moved)
            log.append(2)
            assert await read(2) == log.appended[1:]
        async with asyncio.timeout(10):
            # The one upstream subscription too: it alone counts, and asking takes its time on the wire.
            while (await entries(gateway, operator))[DISK_USAGE].batches < 2:
                pass


async def test_a_cursor_goes_on_where_it_stands(
    gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    servers.permit(operator, *READ)
    log = servers.logs[DISK_USAGE]
    log.append(6)
    await gateway.register(servers)
    cursor = Cursor(positions=[Position(product=DISK_USAGE, log=log.log, offset=log.appended[2][1])])
    async with streaming(gateway, operator, DISK_USAGE, cursor=cursor) as read:
        assert await read(3) == log.appended[3:]


async def test_the_typed_subscribe_of_a_product_reads_the_same(
    gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    servers.permit(operator, *READ)
    log = servers.logs[DISK_USAGE]
    log.append(4)
    await gateway.register(servers)
    async with gateway.channel(operator) as channel:
        call = DiskUsageStub(channel).Subscribe(
            SubscribeRequest(), metadata=await gateway.metadata(operator), timeout=10
        )
        assert await places(call, 4) == log.appended
        log.append(2)
        assert await places(call, 2) == log.appended[4:]
        call.cancel()


async def test_a_typed_subscribe_whose_request_does_not_come_is_ended(
    gateway: Gateway, servers: FakeDomain, operator: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "MEMBERS", replace(MEMBERS, first_message=0.05))
    servers.permit(operator, *READ)
    await gateway.register(servers)
    async with gateway.channel(operator) as channel:
        opened = channel.stream_stream("/telltale.api.servers.v1.DiskUsage/Subscribe")
        failed = await refused(opened(metadata=await gateway.metadata(operator)).read())
    assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_domain_that_restarts_and_loses_its_log_is_a_gap(
    gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    servers.permit(operator, *READ)
    log = servers.logs[DISK_USAGE]
    log.append(3)
    await gateway.register(servers)
    async with streaming(gateway, operator, DISK_USAGE) as read:
        assert await read(3) == log.appended
        log.cut()
        log.append(2)
        assert await read(2) == log.appended[3:]
        log.replace()
        log.append(2)
        assert await read(3) == [GapReason.GAP_REASON_LOG_REPLACED, *log.appended[5:]]


async def test_products_that_appear_later_join_in(
    mesh: Mesh, gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    servers.permit(operator, *READ)
    servers.logs[DISK_USAGE].append(2)
    async with streaming(gateway, operator, "*") as read:
        waiting = asyncio.create_task(read(2))
        await gateway.register(servers)
        assert await waiting == servers.logs[DISK_USAGE].appended


async def test_who_may_not_subscribe_is_told_so(
    gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    await gateway.register(servers)
    async with streaming(gateway, operator, DISK_USAGE) as read:
        error = await refused(read(1))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "lacks the permission `subscribe` on servers.disk_usage" in (error.details() or "")


async def test_a_permission_that_is_withdrawn_ends_a_live_stream(
    gateway: Gateway, servers: FakeDomain, operator: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr("gateway.access._REMEMBERED_SECONDS", 0.0)
    servers.permit(operator, *READ)
    servers.logs[DISK_USAGE].append()
    await gateway.register(servers)
    async with streaming(gateway, operator, DISK_USAGE) as read:
        await read(1)
        servers.forbid(operator)
        error = await refused(read(1))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_no_answer_means_no_new_streams_and_the_end_of_live_ones(
    mesh: Mesh, tmp_path: Path, operator: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr("gateway.access._REMEMBERED_SECONDS", 0.0)
    async with gateway_service(mesh, tmp_path) as gateway:
        async with domain_service(mesh, "servers") as servers:
            servers.permit(operator, *READ)
            servers.logs[DISK_USAGE].append()
            await gateway.register(servers)
            assert set(await entries(gateway, operator)) == set(servers.logs)
            call = streaming(gateway, operator, DISK_USAGE)
            read = await call.__aenter__()
            await read(1)
        live = await refused(read(1))
        await call.__aexit__(None, None, None)
        assert live.code() is grpc.StatusCode.UNAVAILABLE
        async with streaming(gateway, operator, DISK_USAGE) as read:
            new = await refused(read(1))
        assert new.code() is grpc.StatusCode.UNAVAILABLE
        # What the operator could discover before is shown, with the time since when it is gone.
        await state(gateway, operator, CATALOG_STATE_UNREACHABLE)


async def test_a_lease_that_is_not_renewed_ends(
    mesh: Mesh, tmp_path: Path, servers: FakeDomain, operator: Workload
) -> None:
    servers.permit(operator, *READ)
    async with gateway_service(mesh, tmp_path, lease_seconds=0.6) as gateway:
        await gateway.register(servers)
        assert (await entries(gateway, operator))[DISK_USAGE].state == CATALOG_STATE_LIVE
        ended = await state(gateway, operator, CATALOG_STATE_UNREACHABLE)
        again = (await entries(gateway, operator))[DISK_USAGE]
        assert abs(again.state_since.ToNanoseconds() - ended.state_since.ToNanoseconds()) < 50_000_000
        await gateway.register(servers)
        assert (await entries(gateway, operator))[DISK_USAGE].state == CATALOG_STATE_LIVE


async def test_an_unknown_product_is_not_found_once_every_domain_had_its_time(
    mesh: Mesh, tmp_path: Path, operator: Workload
) -> None:
    async with gateway_service(mesh, tmp_path, lease_seconds=0.6) as gateway:
        async with streaming(gateway, operator, "servers.nothing") as read:
            assert (await refused(read(1))).code() is grpc.StatusCode.UNAVAILABLE
        async with asyncio.timeout(10):
            code = None
            while code is not grpc.StatusCode.NOT_FOUND:
                await asyncio.sleep(0.1)
                async with streaming(gateway, operator, "servers.nothing") as read:
                    code = (await refused(read(1))).code()


async def test_a_typed_call_goes_to_its_owner_byte_for_byte_and_on_behalf_of_the_caller(
    gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    await gateway.register(servers)
    async with gateway.channel(operator) as channel:
        call = channel.unary_unary("/telltale.api.servers.v1.Inventory/List")
        metadata = await gateway.metadata(operator)
        error = await refused(call(b"\x12\x00", metadata=metadata, timeout=10))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "ACTION_LIST" in (error.details() or "")
        servers.permit(operator, ACTION_LIST)
        running = call(b"\x12\x00 any bytes \xff", metadata=metadata, timeout=10)
        assert await running == b"listed \x12\x00 any bytes \xff"
        assert ("pages", "1") in tuple(await running.trailing_metadata())
    name, known = servers.calls[-1]
    assert name.endswith("Inventory/List")
    assert known.principal == operator.spiffe_id
    assert known.peer == gateway.mesh.spiffe_id("platform", "/gateway")


WATCH = "/telltale.api.servers.v1.Inventory/Watch"


async def watching(gateway: Gateway, channel: grpc.aio.Channel, operator: Workload) -> Any:
    """A routed watch that has answered once and says nothing more."""
    stub: Any = channel.unary_stream(WATCH)  # type: ignore[call-arg]
    call = stub(b"it", metadata=await gateway.metadata(operator))
    assert await call.read() == b"watched it"
    return call


async def test_a_routed_watch_ends_when_its_owner_no_longer_permits_it(
    gateway: Gateway, servers: FakeDomain, operator: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.proxy.CHECK_SECONDS", 0.05)
    monkeypatch.setattr("gateway.access._REMEMBERED_SECONDS", 0.0)
    servers.permit(operator, ACTION_WATCH)
    await gateway.register(servers)
    async with gateway.channel(operator) as channel, asyncio.timeout(20):
        call = await watching(gateway, channel, operator)
        while [name for name, _ in servers.calls].count("Check") < 3:  # noqa: ASYNC110 - a list has no event
            await asyncio.sleep(0.01)
        assert not call.done()
        servers.forbid(operator)
        error = await refused(call.read())
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "lacks the permission `subscribe` on servers.inventory" in (error.details() or "")


async def test_a_routed_watch_ends_when_its_owner_answers_no_more(
    gateway: Gateway, servers: FakeDomain, operator: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.proxy.CHECK_SECONDS", 0.05)
    monkeypatch.setattr("gateway.access._REMEMBERED_SECONDS", 0.0)
    servers.permit(operator, ACTION_WATCH)
    await gateway.register(servers)
    async with gateway.channel(operator) as channel, asyncio.timeout(20):
        call = await watching(gateway, channel, operator)
        # It holds the stream and no longer says what it decides.
        servers.silent = True
        error = await refused(call.read())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "watch it again" in (error.details() or "")


async def test_a_renewed_certificate_is_shown_to_owners_and_cuts_no_stream(
    gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    servers.permit(operator, *READ)
    log = servers.logs[DISK_USAGE]
    log.append()
    await gateway.register(servers)
    async with streaming(gateway, operator, DISK_USAGE) as read, gateway.channel(operator) as channel:
        await read(1)
        gateway.me._credentials = await MeshIssuer(gateway.mesh).renew(gateway.me.credentials)
        call = channel.unary_unary("/telltale.api.servers.v1.Inventory/List")
        assert await call(b"", metadata=await gateway.metadata(operator), timeout=10) == b"listed "
        _, known = servers.calls[-1]
        assert known.peer_certificate == gateway.me.credentials.certificates[0]
        log.append(2)
        assert await read(2) == log.appended[1:]


@pytest.mark.parametrize(
    "method",
    [
        "/telltale.api.mesh.v1.Ingest/Push",
        "/telltale.api.mesh.v1.Access/Check",
        "/telltale.api.mesh.v1.Schemas/Register",
        "/telltale.api.servers.v1.DiskUsage/Erase",
    ],
)
async def test_what_would_change_something_is_refused(
    gateway: Gateway, servers: FakeDomain, operator: Workload, method: str
) -> None:
    await gateway.register(servers)
    async with gateway.channel(operator) as channel:
        call = channel.unary_unary(method)(b"", metadata=await gateway.metadata(operator), timeout=10)
        error = await refused(call)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "call the domain service itself" in (error.details() or "")


async def test_strangers_learn_nothing(gateway: Gateway, servers: FakeDomain, operator: Workload) -> None:
    await gateway.register(servers)
    methods = [
        "/telltale.api.servers.v1.DiskUsage/Subscribe",
        "/telltale.api.servers.v1.Nothing/Subscribe",
        "/telltale.api.mesh.v1.Catalog/ListProducts",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ]
    async with gateway.channel(operator) as channel:
        for method in methods:
            error = await refused(channel.unary_unary(method)(b"", timeout=10))
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_schemas_come_from_whoever_has_them_and_are_checked(
    gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    servers.permit(operator, *READ)
    await gateway.register(servers)
    image = own_image("servers")
    wanted = Schema.of(image, contracts_in(image)[0])
    async with gateway.channel(operator) as channel:
        stub = SchemasStub(channel)
        for _ in range(2):
            answer = await stub.Get(
                GetSchemaRequest(sha256=wanted.sha256), metadata=await gateway.metadata(operator), timeout=10
            )
            assert answer.file_descriptor_set == wanted.data
    assert [name for name, _ in servers.calls].count("Get") == 1
    stranger = gateway.mesh.workload("operators", "/mallory")
    async with gateway.channel(stranger) as channel:
        call = SchemasStub(channel).Get(
            GetSchemaRequest(sha256=wanted.sha256), metadata=await gateway.metadata(stranger), timeout=10
        )
        assert (await refused(call)).code() is grpc.StatusCode.NOT_FOUND


async def test_only_domain_services_register(
    gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    servers.me = operator
    error = await refused(gateway.register(servers))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_domain_cannot_register_another_domains_service(
    mesh: Mesh, gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    """The network's service points at the servers' address: it does not prove the network's name."""
    servers.permit(operator, *READ)
    async with domain_service(mesh, "network", image=own_image("servers")) as network:
        error = await refused(gateway.register(network, address=servers.address))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert await entries(gateway, operator) == {}


async def test_a_registration_that_breaks_a_rule_changes_nothing(
    mesh: Mesh, gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    servers.permit(operator, *READ)
    await gateway.register(servers)
    before = await entries(gateway, operator)
    foreign = dict(servers.files)
    proto = FileDescriptorProto.FromString(foreign["telltale/api/servers/v1/disk_usage.proto"])
    proto.package = "telltale.api.network.v1"
    foreign[proto.name] = proto.SerializeToString()
    async with domain_service(mesh, "servers", files=foreign) as hostile:
        error = await refused(gateway.register(hostile, digest=b"2"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    async with domain_service(mesh, "network", image=own_image("servers")) as hostile:
        error = await refused(gateway.register(hostile))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    after = await entries(gateway, operator)
    assert {name: entry.trust_domain for name, entry in after.items()} == {
        name: entry.trust_domain for name, entry in before.items()
    }
    servers.logs[DISK_USAGE].append(2)
    async with streaming(gateway, operator, DISK_USAGE) as read:
        assert await read(2) == servers.logs[DISK_USAGE].appended


async def test_an_address_out_of_range_is_refused_before_it_is_dialled(
    mesh: Mesh, tmp_path: Path, servers: FakeDomain
) -> None:
    async with gateway_service(mesh, tmp_path, domain_addresses="10.0.0.0/8") as gateway:
        error = await refused(gateway.register(servers))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "127.0.0.1" in (error.details() or "")
        for wrong in ("nonsense", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999"):
            error = await refused(gateway.register(servers, address=wrong))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert servers.calls == []


async def test_one_identity_cannot_take_all_streams(
    mesh: Mesh, tmp_path: Path, servers: FakeDomain, operator: Workload
) -> None:
    servers.permit(operator, *READ)
    servers.logs[DISK_USAGE].append()
    async with gateway_service(mesh, tmp_path, max_streams_per_caller=2) as gateway:
        await gateway.register(servers)
        async with streaming(gateway, operator, DISK_USAGE) as first, contextlib.AsyncExitStack() as stack:
            await first(1)
            second = await stack.enter_async_context(streaming(gateway, operator, DISK_USAGE))
            await second(1)
            async with streaming(gateway, operator, DISK_USAGE) as third:
                assert (await refused(third(1))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            other = gateway.mesh.workload("operators", "/bob")
            servers.permit(other, *READ)
            async with streaming(gateway, other, DISK_USAGE) as fourth:
                await fourth(1)
            await stack.aclose()
            async with streaming(gateway, operator, DISK_USAGE) as fifth:
                await fifth(1)


async def test_a_stream_is_answered_before_there_is_anything_to_say(
    gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    servers.permit(operator, *READ)
    await gateway.register(servers)
    async with gateway.channel(operator) as channel:
        metadata = await gateway.metadata(operator)
        for call in (
            StreamStub(channel).Subscribe(StreamSubscribeRequest(products=["*"]), metadata=metadata),
            DiskUsageStub(channel).Subscribe(SubscribeRequest(), metadata=metadata),
        ):
            async with asyncio.timeout(10):
                await call.initial_metadata()
            call.cancel()


async def test_malformed_requests_are_told_what_is_wrong(
    gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    servers.permit(operator, *READ)
    await gateway.register(servers)
    elsewhere = Cursor(positions=[Position(product=INVENTORY, log="x", offset=1)])
    async with gateway.channel(operator) as channel:
        metadata = await gateway.metadata(operator)
        stub = StreamStub(channel)
        typed = DiskUsageStub(channel)
        for call in (
            stub.Subscribe(StreamSubscribeRequest(), metadata=metadata, timeout=10),
            stub.Subscribe(StreamSubscribeRequest(products=["Nö"]), metadata=metadata, timeout=10),
            stub.Subscribe(StreamSubscribeRequest(products=["*"] * 65), metadata=metadata, timeout=10),
            typed.Subscribe(SubscribeRequest(cursor=elsewhere), metadata=metadata, timeout=10),
        ):
            assert (await refused(call.read())).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_who_reads_nothing_holds_up_nobody(
    gateway: Gateway, servers: FakeDomain, operator: Workload
) -> None:
    servers.permit(operator, *READ)
    log = servers.logs[DISK_USAGE]
    log.payload_bytes = 60_000
    await gateway.register(servers)
    async with (
        streaming(gateway, operator, DISK_USAGE) as slow,
        streaming(gateway, operator, DISK_USAGE) as fast,
    ):
        # Much more than a connection buffers: what the slow one leaves must not stop the fast one.
        for _ in range(20):
            log.append(50)
            await fast(50)
        assert await slow(1000) == log.appended


async def test_a_domain_may_not_keep_the_gateway_busy_with_registrations(
    gateway: Gateway, servers: FakeDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.catalog._READS_A_MINUTE", 3)
    for digest in (b"1", b"2", b"3", b"3"):
        await gateway.register(servers, digest=digest)
    error = await refused(gateway.register(servers, digest=b"4"))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    # Renewals cost nothing and go on.
    await gateway.register(servers, digest=b"3")


async def test_latest_leaves_the_past_out(gateway: Gateway, servers: FakeDomain, operator: Workload) -> None:
    servers.permit(operator, *READ)
    log = servers.logs[DISK_USAGE]
    log.append(5)
    await gateway.register(servers)
    async with streaming(gateway, operator, DISK_USAGE, start=START_LATEST) as read:
        waiting = asyncio.create_task(read(1))
        async with asyncio.timeout(10):
            while not waiting.done():
                log.append()
                await asyncio.sleep(0.01)
        assert waiting.result()[0] not in log.appended[:5]


async def test_what_the_gateway_decides_is_recorded(
    mesh: Mesh, tmp_path: Path, servers: FakeDomain, operator: Workload
) -> None:
    servers.permit(operator, *READ)
    servers.logs[DISK_USAGE].append()
    async with gateway_service(mesh, tmp_path, max_streams_per_caller=1) as gateway:
        await gateway.register(servers)
        await refused(gateway.register(servers, address="nonsense"))
        async with streaming(gateway, operator, DISK_USAGE) as first, gateway.channel(operator) as channel:
            await first(1)
            async with streaming(gateway, operator, DISK_USAGE) as second:
                await refused(second(1))
        bob = mesh.workload("operators", "/bob")
        async with gateway.channel(bob) as channel:
            push = channel.unary_unary("/telltale.api.mesh.v1.Ingest/Push")
            await refused(push(b"", metadata=await gateway.metadata(bob), timeout=10))
            await refused(push(b"", timeout=10))
    told = [(one.action, one.allowed, one.principal) for one in gateway.recorded.decisions]
    service, alice, bob_name = (str(who.spiffe_id) for who in (servers.me, operator, bob))
    assert told == [
        ("register", True, service),
        ("register", False, service),
        ("admit", True, alice),
        ("admit", False, alice),
        ("admit", True, bob_name),
        ("forward", False, bob_name),
        ("authenticate", False, bob_name),
    ]
    assert {one.address for one in gateway.recorded.decisions} == {"127.0.0.1"}
    assert servers.address in gateway.recorded.of("register")[0].reason
