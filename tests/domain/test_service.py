"""A domain service on the real wire: what is pushed is acked, kept, listed, watched and streamed."""

import asyncio
import resource
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from telltale.api.mesh.v1.access_pb2 import AccessQuery, Action, CheckRequest, DescribePolicyRequest
from telltale.api.mesh.v1.access_pb2_grpc import AccessStub
from telltale.api.mesh.v1.batch_pb2 import Cursor, GapReason, Header, Position, SealedBatch, SealedFrame
from telltale.api.mesh.v1.ingest_pb2 import ChainsRequest, PushRequest, RefusalReason
from telltale.api.mesh.v1.ingest_pb2_grpc import IngestStub
from telltale.api.mesh.v1.schemas_pb2 import GetSchemaRequest, RegisterSchemaRequest
from telltale.api.mesh.v1.schemas_pb2_grpc import SchemasStub
from telltale.api.mesh.v1.stream_pb2 import ListRequest, SubscribeRequest, WatchRequest
from telltale.api.servers.v1.disk_usage_pb2 import DiskUsageFrame
from telltale.api.servers.v1.disk_usage_pb2_grpc import DiskUsageStub
from telltale.api.servers.v1.inventory_pb2_grpc import InventoryStub
from telltale.contract.schema import Schema
from telltale.identity.workload import Workload
from telltale.rpc.auth import ON_BEHALF_OF
from telltale.seal.sealing import seal
from tests.support.batches import DISK_USAGE, INVENTORY, SCHEMAS, Chain, disk_usage, header_of, host
from tests.support.domain import ROOT, Running, running
from tests.support.mesh import Mesh


async def push(
    servers: Running, who: Workload, batches: Iterable[SealedBatch], certificates: Iterable[bytes]
) -> tuple[list[int], dict[int, RefusalReason]]:
    """Sequences that were acked, and the reasons of those that were refused."""
    async with servers.channel(who) as channel:
        call = IngestStub(channel).Push(metadata=await servers.metadata(who))
        await call.initial_metadata()
        await call.write(PushRequest(batches=batches, certificates=certificates))
        await call.done_writing()
        acked, refused = [], {}
        async for response in call:
            acked += [ack.sequence for ack in response.acks]
            refused |= {refusal.sequence: refusal.reason for refusal in response.refusals}
    return acked, refused


async def subscribe(servers: Running, who: Workload, request: SubscribeRequest, records: int) -> list[str]:
    """Mountpoints of the first records of the disk usage stream."""
    found: list[str] = []
    async with servers.channel(who) as channel:
        call = DiskUsageStub(channel).Subscribe(request, metadata=await servers.metadata(who))
        async with asyncio.timeout(10):
            async for frame in call:
                found += [one.mountpoint for batch in frame.batches for one in batch.payload.records]
                if len(found) >= records:
                    break
        call.cancel()
    return found


async def test_what_a_source_publishes_is_streamed_from_the_start_and_live(
    servers: Running, mesh: Mesh, tmp_path: Path
) -> None:
    agent, operator = mesh.workload("servers", "/agent/web1"), mesh.workload("operators", "/ann")
    async with servers.source(agent, tmp_path / "spool.db") as source:
        await source.publish(DISK_USAGE, [disk_usage("/")])
        assert await subscribe(servers, operator, SubscribeRequest(), 1) == ["/"]
        live = asyncio.create_task(subscribe(servers, operator, SubscribeRequest(), 2))
        await source.publish(DISK_USAGE, [disk_usage("/var")])
        assert await live == ["/", "/var"]


async def test_a_cursor_goes_on_after_its_position(servers: Running, mesh: Mesh, tmp_path: Path) -> None:
    agent, operator = mesh.workload("servers", "/agent/web1"), mesh.workload("operators", "/ann")
    async with servers.source(agent, tmp_path / "spool.db") as source:
        for name in ("/a", "/b", "/c"):
            await source.publish(DISK_USAGE, [disk_usage(name)])
    entries = await servers.domain.log.after(DISK_USAGE, 0, 1 << 20)
    position = Position(product=DISK_USAGE, log=servers.domain.log.id, offset=entries[0].offset)
    request = SubscribeRequest(cursor=Cursor(positions=[position]))
    assert await subscribe(servers, operator, request, 2) == ["/b", "/c"]


async def test_a_position_of_an_unknown_log_gives_a_gap_and_the_earliest(
    servers: Running, mesh: Mesh, tmp_path: Path
) -> None:
    agent, operator = mesh.workload("servers", "/agent/web1"), mesh.workload("operators", "/ann")
    async with servers.source(agent, tmp_path / "spool.db") as source:
        await source.publish(DISK_USAGE, [disk_usage("/")])
    request = SubscribeRequest(
        cursor=Cursor(positions=[Position(product=DISK_USAGE, log="another", offset=7)])
    )
    async with servers.channel(operator) as channel:
        call = DiskUsageStub(channel).Subscribe(request, metadata=await servers.metadata(operator))
        first = await call.read()
        second = await call.read()
        call.cancel()
    assert isinstance(first, DiskUsageFrame)
    assert isinstance(second, DiskUsageFrame)
    assert first.gap.reason == GapReason.GAP_REASON_LOG_REPLACED
    assert (first.gap.log, first.gap.after_offset) == ("another", 7)
    assert second.batches[0].delivery.offset == first.gap.resumed.offset


async def test_certificates_travel_before_the_first_batch_of_their_signer(
    servers: Running, mesh: Mesh, tmp_path: Path
) -> None:
    agent, operator = mesh.workload("servers", "/agent/web1"), mesh.workload("operators", "/ann")
    async with servers.source(agent, tmp_path / "spool.db") as source:
        await source.publish(DISK_USAGE, [disk_usage("/")])
    async with servers.channel(operator) as channel:
        call = channel.unary_stream("/telltale.api.servers.v1.DiskUsage/Subscribe")(
            SubscribeRequest().SerializeToString(), metadata=await servers.metadata(operator)
        )
        frame = SealedFrame.FromString(await call.read())
        call.cancel()
    assert tuple(frame.certificates) == agent.credentials.certificates
    assert Header.FromString(frame.batches[0].header).signer_sha256 == agent.credentials.thumbprint


async def test_a_spool_fills_while_the_domain_is_away_and_drains_when_it_is_back(
    mesh: Mesh, tmp_path: Path
) -> None:
    agent, operator = mesh.workload("servers", "/agent/web1"), mesh.workload("operators", "/ann")
    async with running(mesh, tmp_path) as first:
        port = int(first.address.rpartition(":")[2])
        async with first.source(agent, tmp_path / "spool.db") as source:
            await source.publish(DISK_USAGE, [disk_usage("/a")])
    async with Running(mesh, first.domain, "servers", first.address).source(
        agent, tmp_path / "spool.db"
    ) as source:
        for name in ("/b", "/c"):
            await source.publish(DISK_USAGE, [disk_usage(name)])
        async with running(mesh, tmp_path, port=port) as second:
            assert await subscribe(second, operator, SubscribeRequest(), 3) == ["/a", "/b", "/c"]


async def test_a_lost_spool_starts_a_higher_epoch(servers: Running, mesh: Mesh, tmp_path: Path) -> None:
    agent, operator = mesh.workload("servers", "/agent/web1"), mesh.workload("operators", "/ann")
    # As far ahead of this clock as a chain may begin.
    far = time.time_ns() // 1_000_000 + 299_000
    chain = Chain(agent.credentials, epoch=far)
    await push(servers, agent, [chain.next([disk_usage("/a")])], agent.credentials.certificates)
    async with servers.source(agent, tmp_path / "spool.db") as source:
        await source.publish(DISK_USAGE, [disk_usage("/b")])
        assert await subscribe(servers, operator, SubscribeRequest(), 2) == ["/a", "/b"]
    async with servers.channel(agent) as channel:
        known = await IngestStub(channel).Chains(ChainsRequest(), metadata=await servers.metadata(agent))
    assert known.chains[0].epoch == far + 1


async def test_an_inventory_is_listed_watched_and_cleared(
    servers: Running, mesh: Mesh, tmp_path: Path
) -> None:
    agent, operator = mesh.workload("servers", "/agent/web1"), mesh.workload("operators", "/ann")
    async with servers.source(agent, tmp_path / "spool.db") as source:
        await source.snapshot(INVENTORY, [host("a", cpu_count=1), host("b", cpu_count=2)])
        await source.publish(INVENTORY, [host("c", cpu_count=3)], removed=[host("a")])
    async with servers.channel(operator) as channel:
        stub, metadata = InventoryStub(channel), await servers.metadata(operator)
        listed = await stub.List(ListRequest(), metadata=metadata)
        assert [entry.record.host_name for entry in listed.entries] == ["b", "c"]
        filtered = await stub.List(ListRequest(filter="cpu_count >= 3"), metadata=metadata)
        assert [entry.record.host_name for entry in filtered.entries] == ["c"]
        page = await stub.List(ListRequest(page_size=1), metadata=metadata)
        rest = await stub.List(ListRequest(page_size=1, page_token=page.next_page_token), metadata=metadata)
        assert [page.entries[0].record.host_name, rest.entries[0].record.host_name] == ["b", "c"]
        assert not rest.next_page_token
        watch = stub.Watch(WatchRequest(), metadata=metadata)
        seen: list[str] = []
        async for frame in watch:
            seen += [one.host_name for batch in frame.batches for one in batch.payload.records]
            if frame.HasField("sync"):
                assert frame.sync.position == listed.position
                break
        watch.cancel()
    assert seen == ["a", "b", "c"]


@pytest.mark.parametrize(
    "request_",
    [
        ListRequest(page_token="garbage"),
        ListRequest(page_token="W10=" * 10_000),
        ListRequest(filter="no_such_field = 1"),
        ListRequest(page_size=-1),
    ],
)
async def test_a_bad_list_is_an_invalid_argument(servers: Running, mesh: Mesh, request_: ListRequest) -> None:
    operator = mesh.workload("operators", "/ann")
    async with servers.channel(operator) as channel:
        with pytest.raises(aio.AioRpcError) as refused:
            await InventoryStub(channel).List(request_, metadata=await servers.metadata(operator))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_push_of_millions_of_empty_batches_is_refused_before_it_takes_memory(
    servers: Running, mesh: Mesh
) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with servers.channel(agent) as channel:
        call: Any = channel.stream_stream("/telltale.api.mesh.v1.Ingest/Push")(
            metadata=await servers.metadata(agent)
        )
        await call.initial_metadata()
        await call.write(b"\x0a\x00" * (2 << 20))
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 1000 batches and 64 certificates" in await call.details()
    # Parsed it would be 180 MiB and more; on its way through both ends of the wire it is a few times 4 MiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


async def test_each_attack_is_refused_in_band_with_its_reason(servers: Running, mesh: Mesh) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    other = mesh.workload("servers", "/agent/web2")
    chain, foreign = Chain(agent.credentials), Chain(other.credentials)
    good = chain.next([disk_usage("/")])
    flipped = chain.next([disk_usage("/")])
    flipped.payload = flipped.payload[:-1] + bytes([flipped.payload[-1] ^ 1])
    unknown = chain.next([disk_usage("/")], schema_sha256=b"x" * 32)
    batches = [foreign.next([disk_usage("/")]), good, flipped, unknown]
    certificates = [*agent.credentials.certificates, *other.credentials.certificates]
    acked, refused = await push(servers, agent, batches[1:], certificates)
    assert acked == [1]
    assert refused == {
        2: RefusalReason.REFUSAL_REASON_SIGNATURE,
        3: RefusalReason.REFUSAL_REASON_UNKNOWN_SCHEMA,
    }
    _, refused = await push(servers, agent, batches[:1], certificates)
    assert refused == {1: RefusalReason.REFUSAL_REASON_FOREIGN_SOURCE}
    acked, _ = await push(servers, agent, [good], certificates)
    assert acked == [1]
    clone = Chain(agent.credentials)
    _, refused = await push(servers, agent, [clone.next([disk_usage("/forked")])], certificates)
    assert refused == {1: RefusalReason.REFUSAL_REASON_FORK}
    assert len(await servers.domain.log.after(DISK_USAGE, 0, 1 << 20)) == 1


@pytest.mark.parametrize("product", [DISK_USAGE, INVENTORY])
async def test_what_typed_readers_cannot_parse_never_gets_into_the_log(
    servers: Running, mesh: Mesh, product: str
) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    chain = Chain(agent.credentials, product)
    header = header_of(chain.next())
    garbage = seal(agent.credentials, header, b"\x0a\xff garbage")
    miscounted = chain.next(record_count=7)
    certificates = agent.credentials.certificates
    _, refused = await push(servers, agent, [garbage, miscounted], certificates)
    assert refused == dict.fromkeys((1, 2), RefusalReason.REFUSAL_REASON_MALFORMED)
    assert await servers.domain.log.after(product, 0, 1 << 20) == []


async def test_an_agent_of_another_domain_may_not_push(servers: Running, mesh: Mesh) -> None:
    stranger = mesh.workload("platform", "/writer")
    async with servers.channel(stranger) as channel:
        call = IngestStub(channel).Push(metadata=await servers.metadata(stranger))
        with pytest.raises(aio.AioRpcError) as refused:
            await call.initial_metadata()
            await call.read()
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "`push`" in (refused.value.details() or "")


async def test_an_agent_may_not_read(servers: Running, mesh: Mesh) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    with pytest.raises(aio.AioRpcError) as refused:
        await subscribe(servers, agent, SubscribeRequest(), 1)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "`subscribe`" in (refused.value.details() or "")


async def test_schemas_are_given_by_digest_and_contradictions_refused(servers: Running, mesh: Mesh) -> None:
    agent, operator = mesh.workload("servers", "/agent/web1"), mesh.workload("operators", "/ann")
    schema = SCHEMAS[DISK_USAGE]
    async with servers.channel(operator) as channel:
        metadata = await servers.metadata(operator)
        answer = await SchemasStub(channel).Get(GetSchemaRequest(sha256=schema.sha256), metadata=metadata)
        assert answer.file_descriptor_set == schema.data
        with pytest.raises(aio.AioRpcError) as refused:
            await SchemasStub(channel).Get(GetSchemaRequest(sha256=b"x" * 32), metadata=metadata)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    swapped = schema.data.replace(b"total_bytes", b"XXXXX_bytes").replace(b"used_bytes", b"total_byte")
    async with servers.channel(agent) as channel:
        with pytest.raises(aio.AioRpcError) as refused:
            request = RegisterSchemaRequest(file_descriptor_set=swapped)
            await SchemasStub(channel).Register(request, metadata=await servers.metadata(agent))
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_a_schema_that_is_known_is_not_compiled_again_and_needs_push_all_the_same(
    servers: Running, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = RegisterSchemaRequest(file_descriptor_set=SCHEMAS[DISK_USAGE].data)
    compiled = []
    parse = Schema.parse

    def counted(data: bytes, digest: bytes | None = None) -> Schema:
        compiled.append(data)
        return parse(data, digest)

    monkeypatch.setattr(Schema, "parse", counted)
    agent, operator = mesh.workload("servers", "/agent/web1"), mesh.workload("operators", "/ann")
    async with servers.channel(agent) as channel:
        metadata = await servers.metadata(agent)
        answer = await SchemasStub(channel).Register(request, metadata=metadata)
        assert answer.sha256 == SCHEMAS[DISK_USAGE].sha256 and not compiled
        other = RegisterSchemaRequest(file_descriptor_set=SCHEMAS[DISK_USAGE].data + b"\x0a\x00")
        with pytest.raises(aio.AioRpcError):
            await SchemasStub(channel).Register(other, metadata=metadata)
        assert compiled == [other.file_descriptor_set]
    async with servers.channel(operator) as channel:
        with pytest.raises(aio.AioRpcError) as refused:
            await SchemasStub(channel).Register(request, metadata=await servers.metadata(operator))
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_access_answers_the_gateway_only(servers: Running, mesh: Mesh) -> None:
    gateway = mesh.workload("platform", "/gateway")
    agent = mesh.workload("servers", "/agent/web1")
    operator = mesh.workload("operators", "/ann")
    token = await operator.token(mesh.trust_domain("servers"))
    queries = [
        AccessQuery(action=action, product=DISK_USAGE) for action in (Action.ACTION_LIST, Action.ACTION_PUSH)
    ]
    async with servers.channel(gateway) as channel:
        answer = await AccessStub(channel).Check(
            CheckRequest(token=token, queries=queries), metadata=await servers.metadata(gateway)
        )
    assert [decision.allowed for decision in answer.decisions] == [True, False]
    async with servers.channel(agent) as channel:
        with pytest.raises(aio.AioRpcError) as refused:
            await AccessStub(channel).Check(CheckRequest(token=token), metadata=await servers.metadata(agent))
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_a_forwarder_gets_what_its_caller_may_have_and_no_more(servers: Running, mesh: Mesh) -> None:
    gateway = mesh.workload("platform", "/gateway")
    own = await servers.metadata(gateway)
    audience = mesh.trust_domain("servers")
    operator = (ON_BEHALF_OF, await mesh.workload("operators", "/ann").token(audience))
    agent = (ON_BEHALF_OF, await mesh.workload("servers", "/agent/web1").token(audience))
    async with servers.channel(gateway) as channel:
        await InventoryStub(channel).List(ListRequest(), metadata=(*own, operator))
        for behalf in ((), (agent,)):
            with pytest.raises(aio.AioRpcError) as refused:
                await InventoryStub(channel).List(ListRequest(), metadata=(*own, *behalf))
            assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_a_domain_shows_its_own_rules_to_those_who_may_discover_its_products(
    servers: Running, mesh: Mesh
) -> None:
    operator, agent = mesh.workload("operators", "/ann"), mesh.workload("servers", "/agent/web1")
    own = DescribePolicyRequest(trust_domain=mesh.trust_domain("servers"))
    async with servers.channel(operator) as channel:
        stub, metadata = AccessStub(channel), await servers.metadata(operator)
        rules = (await stub.DescribePolicy(own, metadata=metadata)).policy
        assert rules == (ROOT / "services/servers/policy.cedar").read_text()
        with pytest.raises(aio.AioRpcError) as refused:
            await stub.DescribePolicy(DescribePolicyRequest(trust_domain="elsewhere.test"), metadata=metadata)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    async with servers.channel(agent) as channel:
        with pytest.raises(aio.AioRpcError) as refused:
            await AccessStub(channel).DescribePolicy(own, metadata=await servers.metadata(agent))
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
