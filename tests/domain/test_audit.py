"""What a domain service decides arrives at the platform as `mesh.audit`, on the real wire."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from telltale.api.mesh.v1.access_pb2 import AccessQuery, Action, CheckRequest
from telltale.api.mesh.v1.access_pb2_grpc import AccessStub
from telltale.api.mesh.v1.ingest_pb2 import PushRequest
from telltale.api.mesh.v1.ingest_pb2_grpc import IngestStub
from telltale.api.mesh.v1.schemas_pb2 import GetSchemaRequest, RegisterSchemaRequest
from telltale.api.mesh.v1.schemas_pb2_grpc import SchemasStub
from telltale.api.mesh.v1.stream_pb2 import ListRequest, SubscribeRequest
from telltale.api.platform.v1.audit_pb2 import AuditRecord
from telltale.api.platform.v1.audit_pb2_grpc import AuditStub
from telltale.api.servers.v1.accounts_pb2_grpc import AccountsStub
from telltale.api.servers.v1.disk_usage_pb2_grpc import DiskUsageStub
from telltale.identity.workload import Workload
from telltale.rpc.auth import ON_BEHALF_OF
from telltale.rpc.client import call_metadata
from tests.support.batches import DISK_USAGE, SCHEMAS, Chain, disk_usage
from tests.support.domain import Running, running
from tests.support.mesh import Mesh


class Audited:
    """A servers domain, and the platform that it tells what it decides."""

    def __init__(self, servers: Running, platform: Running) -> None:
        self.servers = servers
        self.platform = platform
        self.seen: list[AuditRecord] = []

    async def until(self, *wanted: Callable[[AuditRecord], bool]) -> list[AuditRecord]:
        """The first record of each kind."""
        writer = self.platform.mesh.workload("platform", "/writer")
        found: list[AuditRecord | None] = [None] * len(wanted)
        async with self.platform.channel(writer) as channel, asyncio.timeout(30):
            call = AuditStub(channel).Subscribe(
                SubscribeRequest(), metadata=await self.platform.metadata(writer)
            )
            async for frame in call:
                for record in (one for batch in frame.batches for one in batch.payload.records):
                    self.seen.append(record)
                    for place, matches in enumerate(wanted):
                        if found[place] is None and matches(record):
                            found[place] = record
                told = [record for record in found if record is not None]
                if len(told) == len(wanted):
                    call.cancel()
                    return told
        raise AssertionError("the stream ended")


@pytest.fixture
async def audited(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Audited]:
    async with (
        running(mesh, tmp_path, "platform") as platform,
        running(mesh, tmp_path, "servers", platform=platform.address) as servers,
    ):
        yield Audited(servers, platform)


async def refused(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value.code()


async def subscribe(servers: Running, who: Workload, metadata: Any) -> grpc.StatusCode:
    async with servers.channel(who) as channel:
        return await refused(DiskUsageStub(channel).Subscribe(SubscribeRequest(), metadata=metadata).read())


async def test_a_denied_subscribe_a_bad_token_and_an_allowed_push_become_records(
    audited: Audited, mesh: Mesh, tmp_path: Path
) -> None:
    servers = audited.servers
    agent = mesh.workload("servers", "/agent/web1")
    foreign = await call_metadata(agent, mesh.trust_domain("platform"))
    assert await subscribe(servers, agent, await servers.metadata(agent)) is grpc.StatusCode.PERMISSION_DENIED
    assert await subscribe(servers, agent, foreign) is grpc.StatusCode.UNAUTHENTICATED
    async with servers.source(agent, tmp_path / "spool.db") as source:
        await source.publish(DISK_USAGE, [disk_usage("/")])
        denied, unknown, pushed = await audited.until(
            lambda one: (one.action, one.product) == ("subscribe", DISK_USAGE),
            lambda one: one.action == "authenticate",
            lambda one: (one.action, one.product) == ("push", DISK_USAGE),
        )
    name = str(agent.spiffe_id)
    for record in (denied, unknown, pushed):
        assert (record.reporter, record.principal, record.peer) == ("servers service", name, name)
        assert record.address == "127.0.0.1" and record.count >= 1
        assert record.time.ToNanoseconds() <= record.last_time.ToNanoseconds()
    assert not denied.allowed and list(denied.rules) == []
    assert denied.reason.startswith("no policy permits `subscribe` on servers.disk_usage")
    assert not unknown.allowed and "not meant for servers.telltale.test" in unknown.reason
    assert pushed.allowed and list(pushed.rules) == ["agents-publish"]
    (_, bearer), *_ = foreign
    assert not [part for part in bearer.split()[1].split(".") if part in str(audited.seen)]


async def test_what_the_gateway_asks_for_another_is_a_decision_on_the_other(
    audited: Audited, mesh: Mesh
) -> None:
    servers = audited.servers
    gateway, operator = mesh.workload("platform", "/gateway"), mesh.workload("operators", "/ann")
    token = await operator.token(mesh.trust_domain("servers"))
    queries = [
        AccessQuery(action=action, product=product)
        for action, product in (
            (Action.ACTION_SUBSCRIBE, DISK_USAGE),
            (Action.ACTION_PUSH, DISK_USAGE),
            (Action.ACTION_SUBSCRIBE, "servers.nothing"),
        )
    ]
    async with servers.channel(gateway) as channel:
        check = CheckRequest(token=token, queries=queries)
        await AccessStub(channel).Check(check, metadata=await servers.metadata(gateway))
    async with servers.channel(operator) as channel:
        call = AccessStub(channel).Check(check, metadata=await servers.metadata(operator))
        assert await refused(call) is grpc.StatusCode.PERMISSION_DENIED
    allowed, denied, nothing, forwarding = await audited.until(
        lambda one: one.action == "subscribe" and one.allowed,
        lambda one: one.action == "push" and not one.allowed,
        lambda one: one.product == "servers.nothing",
        lambda one: one.action == "forward",
    )
    for record in (allowed, denied, nothing):
        assert (record.principal, record.peer) == (str(operator.spiffe_id), str(gateway.spiffe_id))
    assert list(allowed.rules) == ["operators-read", "operators-see"]
    assert not nothing.allowed and "no product of this domain" in nothing.reason
    assert not forwarding.allowed and forwarding.peer == str(operator.spiffe_id)
    assert token.split(".")[2] not in str(audited.seen)


async def test_batches_in_a_foreign_name_or_of_a_foreign_product_are_denied_pushes(
    audited: Audited, mesh: Mesh
) -> None:
    servers = audited.servers
    agent, other = mesh.workload("servers", "/agent/web1"), mesh.workload("servers", "/agent/web2")
    batches = [
        Chain(other.credentials).next([disk_usage("/")]),
        Chain(agent.credentials).next(product="servers.invented"),
    ]
    async with servers.channel(agent) as channel:
        call = IngestStub(channel).Push(metadata=await servers.metadata(agent))
        await call.initial_metadata()
        await call.write(PushRequest(batches=batches))
        await call.done_writing()
        assert [len(answer.refusals) async for answer in call] == [2]
    foreign, invented = await audited.until(
        lambda one: one.subject == str(other.spiffe_id),
        lambda one: one.product == "servers.invented",
    )
    assert {(one.action, one.allowed, one.principal) for one in (foreign, invented)} == {
        ("push", False, str(agent.spiffe_id))
    }


async def test_who_asks_for_a_schema_is_decided_on_the_products_that_it_describes(
    audited: Audited, mesh: Mesh
) -> None:
    servers = audited.servers
    operator, agent = mesh.workload("operators", "/ann"), mesh.workload("servers", "/agent/web1")
    async with servers.channel(operator) as channel:
        stub, metadata = SchemasStub(channel), await servers.metadata(operator)
        digest = SCHEMAS[DISK_USAGE].sha256
        await stub.Get(GetSchemaRequest(sha256=digest), metadata=metadata)
        register = RegisterSchemaRequest(file_descriptor_set=SCHEMAS[DISK_USAGE].data)
        assert await refused(stub.Register(register, metadata=metadata)) is grpc.StatusCode.PERMISSION_DENIED
    async with servers.channel(agent) as channel:
        await SchemasStub(channel).Register(register, metadata=await servers.metadata(agent))
    discovered, denied, registered = await audited.until(
        lambda one: (one.action, one.product, one.allowed) == ("discover", DISK_USAGE, True),
        lambda one: (one.action, one.product, one.allowed) == ("push", "", False),
        lambda one: (one.action, one.product, one.allowed) == ("push", DISK_USAGE, True),
    )
    assert discovered.principal == denied.principal == str(operator.spiffe_id)
    assert "any product of this domain" in denied.reason
    assert registered.principal == str(agent.spiffe_id)


async def test_a_forwarder_that_shows_a_bad_token_is_told_of(audited: Audited, mesh: Mesh) -> None:
    servers = audited.servers
    gateway, operator = mesh.workload("platform", "/gateway"), mesh.workload("operators", "/ann")
    foreign = await operator.token(mesh.trust_domain("analysis"))
    metadata = await servers.metadata(gateway)
    async with servers.channel(gateway) as channel:
        check = AccessStub(channel).Check(CheckRequest(token=foreign), metadata=metadata)
        assert await refused(check) is grpc.StatusCode.UNAUTHENTICATED
    behalf = (*metadata, (ON_BEHALF_OF, foreign))
    assert await subscribe(servers, gateway, behalf) is grpc.StatusCode.UNAUTHENTICATED
    for record in await audited.until(
        lambda one: one.action == "authenticate" and one.reason.endswith("Access/Check)"),
        lambda one: one.action == "authenticate" and one.reason.endswith("DiskUsage/Subscribe)"),
    ):
        assert record.peer == str(gateway.spiffe_id) and "not meant for" in record.reason
    assert foreign.split(".")[2] not in str(audited.seen)


async def test_who_saw_what_is_personal_and_from_whom_it_was_kept_are_records(
    audited: Audited, mesh: Mesh
) -> None:
    servers = audited.servers
    ann, ray = mesh.workload("operators", "/ann"), mesh.workload("operators", "/ray", groups=["responders"])
    for who in (ann, ray):
        async with servers.channel(who) as channel:
            await AccountsStub(channel).List(ListRequest(), metadata=await servers.metadata(who))
    async with servers.channel(ann) as channel:
        call = AccountsStub(channel).Subscribe(SubscribeRequest(), metadata=await servers.metadata(ann))
        assert await refused(call.read()) is grpc.StatusCode.PERMISSION_DENIED
    masked, whole, stream = await audited.until(
        lambda one: one.action == "see" and one.principal == str(ann.spiffe_id),
        lambda one: one.action == "see" and one.principal == str(ray.spiffe_id),
        lambda one: one.action == "subscribe" and one.product == "servers.accounts",
    )
    assert not masked.allowed and list(masked.rules) == ["operators-see"]
    assert "may not see account (personal), account_id (personal)" in masked.reason
    assert whole.allowed and list(whole.rules) == ["operators-see", "responders-see-personal"]
    assert not stream.allowed and "a sealed batch is delivered whole" in stream.reason
