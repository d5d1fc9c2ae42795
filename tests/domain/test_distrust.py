"""A domain whose source is distrusted: its door closes, its log keeps what it has, its lists leave it out."""

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import grpc.aio

from telltale.api.mesh.v1.ingest_pb2 import PushRequest, RefusalReason
from telltale.api.mesh.v1.ingest_pb2_grpc import IngestStub
from telltale.api.mesh.v1.stream_pb2 import ListRequest, WatchRequest
from telltale.api.servers.v1.inventory_pb2_grpc import InventoryStub
from telltale.identity.workload import Workload
from tests.support.batches import INVENTORY, Chain, disk_usage, host
from tests.support.domain import Running
from tests.support.mesh import Mesh
from tests.support.words import lift, say, word

PATIENCE_SECONDS = 30.0


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


async def pushed(
    servers: Running, who: Workload, request: PushRequest
) -> tuple[list[int], list[RefusalReason]]:
    async with servers.channel(who) as channel:
        call = IngestStub(channel).Push(metadata=await servers.metadata(who))
        await call.initial_metadata()
        await call.write(request)
        await call.done_writing()
        acked, refused = [], []
        async for response in call:
            acked += [ack.sequence for ack in response.acks]
            refused += [refusal.reason for refusal in response.refusals]
    return acked, refused


async def listed(servers: Running, mesh: Mesh) -> tuple[list[str], list[str]]:
    """Hosts of the inventory as List shows them, and as Watch begins."""
    operator = mesh.workload("operators", "/ann")
    async with servers.channel(operator) as channel, asyncio.timeout(PATIENCE_SECONDS):
        stub, metadata = InventoryStub(channel), await servers.metadata(operator)
        page = await stub.List(ListRequest(), metadata=metadata)
        watch = stub.Watch(WatchRequest(), metadata=metadata)
        seen: list[str] = []
        async for frame in watch:
            seen += [one.host_name for batch in frame.batches for one in batch.payload.records]
            if frame.HasField("sync"):
                break
        watch.cancel()
    return [entry.record.host_name for entry in page.entries], seen


async def test_the_door_closes_to_a_live_stream_and_to_the_next(servers: Running, mesh: Mesh) -> None:
    thief = mesh.workload("servers", "/agent/web1")
    chain = Chain(thief.credentials)
    certificates = thief.credentials.certificates
    async with servers.channel(thief) as channel:
        call = IngestStub(channel).Push(metadata=await servers.metadata(thief))
        await call.initial_metadata()
        await call.write(PushRequest(batches=[chain.next([disk_usage("/")])], certificates=certificates))
        assert (await call.read()).acks
        say(servers.domain.me.trust, mesh, word(thief.spiffe_id))
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "is distrusted since" in (await call.details() or "")
    # Whatever time it would claim for what it seals: the caller itself is refused.
    async with servers.channel(thief) as channel, asyncio.timeout(PATIENCE_SECONDS):
        again = IngestStub(channel).Push(metadata=await servers.metadata(thief))
        assert await again.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_spool_is_taken_up_to_the_word_once_the_host_has_a_new_key(
    servers: Running, mesh: Mesh
) -> None:
    old = mesh.workload("servers", "/agent/web1")
    chain = Chain(old.credentials)
    spooled = [chain.next([disk_usage("/")], sealed_at=ago(seconds)) for seconds in (50, 40, 20, 10)]
    say(servers.domain.me.trust, mesh, word(old.spiffe_id, ago(30)))
    until = datetime.now(UTC).replace(microsecond=0)
    lift(servers.domain.me.trust, mesh, old.spiffe_id, until)
    fresh = enrolled_anew(mesh, old, until)
    certificates = (*fresh.credentials.certificates, *old.credentials.certificates)
    acked, refused = await pushed(servers, fresh, PushRequest(batches=spooled, certificates=certificates))
    assert acked == [1, 2]
    assert refused == [RefusalReason.REFUSAL_REASON_DISTRUSTED] * 2
    # The chain goes on behind what was refused.
    chain.credentials = fresh.credentials
    acked, refused = await pushed(
        servers, fresh, PushRequest(batches=[chain.next([disk_usage("/")])], certificates=certificates)
    )
    assert (acked, refused) == ([5], [])


async def test_lists_leave_out_what_was_sealed_since_and_the_log_keeps_it(
    servers: Running, mesh: Mesh
) -> None:
    thief, other = mesh.workload("servers", "/agent/web1"), mesh.workload("servers", "/agent/web2")
    for who in (thief, other):
        chain = Chain(who.credentials, INVENTORY)
        name = who.spiffe_id.path.rpartition("/")[2]
        batches = [
            chain.next([host(f"{name}-before")], sealed_at=ago(50)),
            chain.next([host(f"{name}-after")], sealed_at=ago(10)),
        ]
        request = PushRequest(batches=batches, certificates=who.credentials.certificates)
        assert await pushed(servers, who, request) == ([1, 2], [])
    everything = ["web1-after", "web1-before", "web2-after", "web2-before"]
    rows, seen = await listed(servers, mesh)
    assert (sorted(rows), sorted(seen)) == (everything, everything)
    say(servers.domain.me.trust, mesh, word(thief.spiffe_id, ago(30)))
    rows, seen = await listed(servers, mesh)
    assert (sorted(rows), sorted(seen)) == (everything[1:], everything[1:])
    # What it was does not change with the lift, and consumers decide for themselves.
    lift(servers.domain.me.trust, mesh, thief.spiffe_id)
    rows, _ = await listed(servers, mesh)
    assert sorted(rows) == everything[1:]
    assert len(await servers.domain.log.after(INVENTORY, 0, 1 << 20)) == 4


def enrolled_anew(mesh: Mesh, old: Workload, lifted: datetime) -> Workload:
    """The same identity with a new key, as its authority issues it after the lift."""
    say(mesh.authorities["servers"].trust, mesh, word(old.spiffe_id, until=lifted))
    return mesh.workload("servers", old.spiffe_id.path)
