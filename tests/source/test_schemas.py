"""A domain is told of a schema when it does not know it, and of no other; and a slow one gets its time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from telltale.contract.image import Image
from telltale.domain.ingest import Ingest
from telltale.domain.schemas import SchemasService
from telltale.identity.workload import Workload
from telltale.source import pusher
from telltale.source.source import Source
from tests.source.test_pusher import acked, kept, mountpoints, until
from tests.support.batches import DISK_USAGE, INVENTORY, SERVERS, disk_usage, host
from tests.support.domain import DOMAINS, Running, running
from tests.support.mesh import Mesh


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Calls that reach a domain service."""
    counts: Counter[str] = Counter()

    def counted(name: str, served: Any) -> Any:
        def serve(*call: Any) -> Any:
            counts[name] += 1
            return served(*call)

        return serve

    for service, name in ((SchemasService, "Register"), (Ingest, "Chains")):
        monkeypatch.setattr(service, name, counted(name, getattr(service, name)))
    return counts


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.create(tmp_path / "mesh", *DOMAINS)


@pytest.fixture
async def servers(mesh: Mesh, tmp_path: Path, calls: Counter[str]) -> AsyncIterator[Running]:
    async with running(mesh, tmp_path) as service:
        yield service


@pytest.fixture
def agent(mesh: Mesh) -> Workload:
    return mesh.workload("servers", "/agent/web1")


def edited(edit: Callable[[DescriptorProto], object], *records: str) -> Image:
    """The servers' products with other records."""
    files = []
    for proto in SERVERS.protos.values():
        copy = FileDescriptorProto.FromString(proto.SerializeToString())
        for message in copy.message_type:
            if message.name in records:
                edit(message)
        files.append(copy)
    return Image(FileDescriptorSet(file=files).SerializeToString())


def older(*records: str) -> Image:
    def shrink(message: DescriptorProto) -> None:
        if message.field.pop().proto3_optional:
            message.oneof_decl.pop()

    return edited(shrink, *records)


def newer(*records: str) -> Image:
    def grow(message: DescriptorProto) -> None:
        message.field.add().CopyFrom(message.field[-1])
        message.field[-1].name, message.field[-1].number = "invented", 1_000

    return edited(grow, *records)


async def test_a_source_that_reconnects_tells_a_domain_nothing_that_it_knows(
    servers: Running, agent: Workload, tmp_path: Path, calls: Counter[str]
) -> None:
    for number in range(3):
        async with servers.source(agent, tmp_path / "spool.db") as one:
            for product, record in ((DISK_USAGE, disk_usage("/")), (INVENTORY, host("web1"))):
                await one.publish(product, [record])
            await acked(one)
        assert calls == {"Chains": number + 1}


async def test_a_domain_is_told_of_the_schemas_that_it_does_not_know_and_takes_what_waited_for_them(
    servers: Running, agent: Workload, tmp_path: Path, calls: Counter[str]
) -> None:
    image = older("DiskUsageRecord", "InventoryRecord")
    names = [f"/{number}" for number in range(20)]
    async with servers.source(agent, tmp_path / "spool.db", image) as one:
        for name in names:
            await one.publish(DISK_USAGE, [disk_usage(name)])
        await one.publish(INVENTORY, [host("web1")])
        await acked(one)
        assert one.holes_declared == 0
    assert await mountpoints(servers) == names
    assert [header.sequence for header, _ in await kept(servers)] == list(range(1, 21))
    # Each once; and of those that are not used, none.
    assert calls["Register"] == 2 and calls["Chains"] == 1
    async with servers.source(agent, tmp_path / "spool.db", image) as one:
        await one.publish(DISK_USAGE, [disk_usage("/again")])
        await acked(one)
    assert calls["Register"] == 2


async def test_a_schema_ahead_of_its_domain_is_offered_once_a_connection_and_holds_up_no_other(
    servers: Running, agent: Workload, tmp_path: Path, calls: Counter[str]
) -> None:
    for number in range(1, 3):
        async with servers.source(agent, tmp_path / "spool.db", newer("DiskUsageRecord")) as one:
            await one.publish(DISK_USAGE, [disk_usage("/")])
            await one.publish(INVENTORY, [host("web1")])
            await until(lambda number=number: _held(servers, number))  # type: ignore[misc]
            await until(lambda one=one, number=number: _waits(one, number))  # type: ignore[misc]
            assert one.holes_declared == 0
        assert calls["Register"] == number
    assert not await kept(servers)


async def _held(servers: Running, number: int) -> bool:
    return len(await kept(servers, INVENTORY)) == number


async def _waits(one: Source, number: int) -> bool:
    return (await one.usage()).batches == number


async def test_a_service_that_is_slower_than_a_call_may_take_is_given_longer(
    mesh: Mesh, agent: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "backoff", lambda _: 0.01)
    # As short for this service as ten seconds are for one whose whole fleet calls at once.
    monkeypatch.setattr(pusher, "_CALL_SECONDS", 0.02)
    serve = Ingest.Chains

    async def slowly(*call: Any) -> Any:
        await asyncio.sleep(1.0)
        return await serve(*call)

    monkeypatch.setattr(Ingest, "Chains", slowly)
    async with running(mesh, tmp_path) as servers, servers.source(agent, tmp_path / "spool.db") as one:
        await one.publish(DISK_USAGE, [disk_usage("/")])
        await acked(one)
        assert await mountpoints(servers) == ["/"]


def test_a_service_gets_more_time_at_each_attempt_and_never_for_ever() -> None:
    given = [pusher._patience(attempt) for attempt in (0, 1, 2, 3, 4, 2_000)]
    assert given == [10, 20, 40, 80, 120, 120]
