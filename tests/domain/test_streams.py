"""Streams of a domain on the real wire: gaps are told, nothing is missed, and a cut leaves nothing behind."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from telltale.api.mesh.v1.batch_pb2 import Cursor, GapReason, Header, Position, SealedFrame
from telltale.api.mesh.v1.ingest_pb2 import ChainsRequest, PushRequest
from telltale.api.mesh.v1.ingest_pb2_grpc import IngestStub
from telltale.api.mesh.v1.stream_pb2 import SubscribeRequest, WatchRequest
from telltale.api.servers.v1.inventory_pb2_grpc import InventoryStub
from telltale.domain import subscribe
from telltale.domain.subscribe import Subscriptions
from telltale.domain.tail import Tail
from telltale.errors import Damaged, Unavailable
from tests.support.batches import CONTRACTS, DISK_USAGE, INVENTORY, Chain, disk_usage, host
from tests.support.domain import Running, running
from tests.support.mesh import Mesh


async def pruned(servers: Running) -> None:
    await asyncio.sleep(0.002)  # the clock must have moved past the batches
    assert await servers.domain.log.prune({DISK_USAGE: timedelta(0)})


async def frames(servers: Running, mesh: Mesh, request: SubscribeRequest) -> AsyncIterator[SealedFrame]:
    reader = mesh.workload("operators", "/ann")
    async with servers.channel(reader) as channel, asyncio.timeout(10):
        call = channel.unary_stream("/telltale.api.servers.v1.DiskUsage/Subscribe")(
            request.SerializeToString(), metadata=await servers.metadata(reader)
        )
        try:
            async for frame in call:
                yield SealedFrame.FromString(frame)
        finally:
            call.cancel()


async def test_a_damaged_batch_is_a_gap_in_its_place_and_the_stream_goes_on(
    servers: Running, mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = servers.domain.log
    async with servers.source(mesh.workload("servers", "/agent/web1"), tmp_path / "spool.db") as source:
        for name in ("/a", "/b", "/c"):
            await source.publish(DISK_USAGE, [disk_usage(name)])
    first, second, third = await log.after(DISK_USAGE, 0, 1 << 20)
    # Who keeps up is served from memory; this reader is behind.
    monkeypatch.setattr(log, "_tail", Tail(0))
    with contextlib.closing(sqlite3.connect(tmp_path / "servers" / "log.db")) as db, db:
        db.execute("UPDATE batches SET batch = zeroblob(length(batch)) WHERE offset = ?", (second.offset,))
    stream = frames(servers, mesh, SubscribeRequest())
    assert [batch.SerializeToString() for batch in (await anext(stream)).batches] == [first.batch]
    gap = (await anext(stream)).gap
    assert gap.reason == GapReason.GAP_REASON_DAMAGED
    assert (gap.log, gap.after_offset) == (log.id, first.offset)
    assert gap.resumed == Position(product=DISK_USAGE, log=log.id, offset=third.offset)
    assert [batch.SerializeToString() for batch in (await anext(stream)).batches] == [third.batch]
    await stream.aclose()


async def test_a_watch_is_told_that_the_state_lacks_a_damaged_batch(
    servers: Running, mesh: Mesh, tmp_path: Path
) -> None:
    async with servers.source(mesh.workload("servers", "/agent/web1"), tmp_path / "spool.db") as source:
        await source.snapshot(INVENTORY, [host("a")])
        await source.publish(INVENTORY, [host("b")])
    with contextlib.closing(sqlite3.connect(tmp_path / "servers" / "log.db")) as db, db:
        db.execute("UPDATE batches SET signer = 'x' WHERE offset = 1")
    reader = mesh.workload("operators", "/ann")
    async with servers.channel(reader) as channel, asyncio.timeout(10):
        call = InventoryStub(channel).Watch(WatchRequest(), metadata=await servers.metadata(reader))
        assert (await call.read()).gap.reason == GapReason.GAP_REASON_DAMAGED
        assert len((await call.read()).batches) == 1
        assert (await call.read()).HasField("sync")
        call.cancel()


def lead_astray(path: Path) -> None:
    """Lets a page in the middle of a long row name a page that is not there as the next one."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        page = file.read().index(b"x" * (page_bytes - 8)) // page_bytes + 2
        file.seek(page * page_bytes)
        file.write(b"\xff" * 4)


async def test_a_malformed_log_ends_the_service_once_and_is_another_log_after_that(
    mesh: Mesh, tmp_path: Path
) -> None:
    agent, spool = mesh.workload("servers", "/agent/web1"), tmp_path / "spool.db"
    async with running(mesh, tmp_path) as service, service.source(agent, spool) as source:
        await source.publish(DISK_USAGE, [disk_usage("x" * 200_000)])
        while (await source.usage()).batches:  # noqa: ASYNC110 - on disk
            await asyncio.sleep(0.01)
    known = service.domain.log.id
    lead_astray(tmp_path / "servers" / "log.db")
    with pytest.raises(ExceptionGroup) as ended:
        async with running(mesh, tmp_path) as service, asyncio.timeout(20):
            with contextlib.suppress(Unavailable):
                await service.domain.log.after(DISK_USAGE, 0, 1 << 20)
            await asyncio.Event().wait()
    assert ended.group_contains(Damaged)
    async with running(mesh, tmp_path) as service, service.source(agent, spool) as source:
        await source.publish(DISK_USAGE, [disk_usage("/b")])
        asked = Position(product=DISK_USAGE, log=known, offset=1)
        stream = frames(service, mesh, SubscribeRequest(cursor=Cursor(positions=[asked])))
        assert (await anext(stream)).gap.reason == GapReason.GAP_REASON_LOG_REPLACED
        while not (frame := await anext(stream)).batches:
            assert frame.HasField("sync")
        await stream.aclose()


async def test_a_cursor_older_than_retention_gives_a_gap_and_what_follows(
    servers: Running, mesh: Mesh, tmp_path: Path
) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    log = servers.domain.log
    async with servers.source(agent, tmp_path / "spool.db") as source:
        for name in ("/a", "/b"):
            await source.publish(DISK_USAGE, [disk_usage(name)])
    first, _ = await log.after(DISK_USAGE, 0, 1 << 20)
    await pruned(servers)
    async with servers.source(agent, tmp_path / "spool.db") as source:
        await source.publish(DISK_USAGE, [disk_usage("/c")])
    (third,) = await log.after(DISK_USAGE, 0, 1 << 20)
    position = Position(product=DISK_USAGE, log=log.id, offset=first.offset)
    request = SubscribeRequest(cursor=Cursor(positions=[position]))
    stream = frames(servers, mesh, request)
    gap = (await anext(stream)).gap
    assert gap.reason == GapReason.GAP_REASON_RETENTION
    assert (gap.log, gap.after_offset) == (log.id, first.offset)
    assert gap.resumed == Position(product=DISK_USAGE, log=log.id, offset=third.offset)
    (batch,) = (await anext(stream)).batches
    assert Header.FromString(batch.header).sequence == 3
    await stream.aclose()  # type: ignore[attr-defined]


async def test_a_reader_that_retention_overtakes_in_mid_stream_is_told(
    servers: Running, mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscribe, "_FRAME_BYTES", 1)  # one batch a frame

    class Open:
        def require_whole(self, contract: object) -> None: ...

    agent = mesh.workload("servers", "/agent/web1")
    async with servers.source(agent, tmp_path / "spool.db") as source:
        for name in ("/a", "/b", "/c"):
            await source.publish(DISK_USAGE, [disk_usage(name)])
    streams = Subscriptions(servers.domain.log, Open())  # type: ignore[arg-type]
    stream = streams.subscribe(CONTRACTS[DISK_USAGE], SubscribeRequest())
    assert len(SealedFrame.FromString(await anext(stream)).batches) == 1
    await pruned(servers)
    assert SealedFrame.FromString(await anext(stream)).gap.reason == GapReason.GAP_REASON_RETENTION
    await stream.aclose()  # type: ignore[attr-defined]


async def test_a_watch_goes_on_with_deltas_also_of_a_source_without_a_snapshot(
    servers: Running, mesh: Mesh, tmp_path: Path
) -> None:
    reader = mesh.workload("operators", "/ann")
    whole, partial = mesh.workload("servers", "/agent/web1"), mesh.workload("servers", "/agent/web2")
    async with (
        servers.source(whole, tmp_path / "one.db") as one,
        servers.source(partial, tmp_path / "two.db") as two,
        servers.channel(reader) as channel,
        asyncio.timeout(20),
    ):
        await one.snapshot(INVENTORY, [host("old")])
        await one.snapshot(INVENTORY, [host("a")])
        await two.publish(INVENTORY, [host("b")])
        while len(await servers.domain.log.after(INVENTORY, 0, 1 << 20)) < 3:  # noqa: ASYNC110 - on disk
            await asyncio.sleep(0.01)
        call = InventoryStub(channel).Watch(WatchRequest(), metadata=await servers.metadata(reader))
        before: list[str] = []
        live: list[str] = []
        async for frame in call:
            names = [record.host_name for batch in frame.batches for record in batch.payload.records]
            if frame.HasField("sync"):
                await one.publish(INVENTORY, [host("c")])
            (live if live or "c" in names else before).extend(names)
            if live:
                break
        call.cancel()
    assert sorted(before) == ["a", "b"] and live == ["c"]


async def test_invented_product_names_leave_nothing_behind(servers: Running, mesh: Mesh) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    batches = [Chain(agent.credentials).next([], product=f"servers.x{number}") for number in range(50)]
    async with servers.channel(agent) as channel:
        metadata = await servers.metadata(agent)
        call = IngestStub(channel).Push(metadata=metadata)
        await call.initial_metadata()
        await call.write(PushRequest(batches=batches, certificates=agent.credentials.certificates))
        assert len((await call.read()).refusals) == 50
        await call.done_writing()
        assert not (await IngestStub(channel).Chains(ChainsRequest(), metadata=metadata)).chains


async def test_a_stream_that_is_cut_while_the_disk_is_slow_leaves_no_task_and_loses_nothing(
    servers: Running, mesh: Mesh
) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    chain = Chain(agent.credentials)
    busy = threading.Event()
    blocked = servers.domain.log._database.submit(lambda db: busy.wait())
    before = {id(task) for task in asyncio.all_tasks()}
    async with servers.channel(agent) as channel, asyncio.timeout(20):
        call = IngestStub(channel).Push(metadata=await servers.metadata(agent))
        await call.initial_metadata()
        for _ in range(20):
            certificates = agent.credentials.certificates
            await call.write(PushRequest(batches=[chain.next([disk_usage("/")])], certificates=certificates))
        while servers.domain.log._database._jobs.qsize() < 8:  # noqa: ASYNC110 - another thread's queue
            await asyncio.sleep(0.01)
        call.cancel()

        def takers() -> list[str]:
            tasks = [task for task in asyncio.all_tasks() if id(task) not in before]
            return [str(task.get_coro()) for task in tasks if "_take" in str(task.get_coro())]

        while takers():  # noqa: ASYNC110 - tasks of others end without telling
            await asyncio.sleep(0.01)
    busy.set()
    await blocked
    await servers.domain.log._database.write(lambda db: None)
    # One of the eight jobs may have been the service's own pruning.
    assert len(await servers.domain.log.after(DISK_USAGE, 0, 1 << 20)) >= 7
