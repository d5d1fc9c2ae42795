"""What a source publishes arrives exactly once, or is declared: over kills, refusals, and a full disk."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from telltale.api.mesh.v1.batch_pb2 import Header, HoleReason, LossReason, SealedBatch
from telltale.api.servers.v1.disk_usage_pb2 import DiskUsageFrame
from telltale.identity.workload import Workload
from telltale.rpc import client
from telltale.seal.sealing import MAX_PAYLOAD_BYTES
from telltale.source import pusher, source
from tests.support.batches import DISK_USAGE, INVENTORY, disk_usage, host
from tests.support.domain import DOMAINS, Running, running
from tests.support.mesh import Mesh


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.create(tmp_path / "mesh", *DOMAINS)


@pytest.fixture
async def servers(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(mesh, tmp_path) as service:
        yield service


@pytest.fixture
def agent(mesh: Mesh) -> Workload:
    return mesh.workload("servers", "/agent/web1")


async def kept(servers: Running, product: str = DISK_USAGE) -> list[tuple[Header, SealedBatch]]:
    entries = await servers.domain.log.after(product, 0, 1 << 30, 100_000)
    batches = [SealedBatch.FromString(entry.batch) for entry in entries]
    return [(Header.FromString(batch.header), batch) for batch in batches]


async def mountpoints(servers: Running) -> list[str]:
    return [
        record.mountpoint
        for _, batch in await kept(servers)
        for record in DiskUsageFrame.Records.FromString(batch.payload).records
    ]


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - what is waited for lies on disk and has no event
            await asyncio.sleep(0.01)


async def acked(one: source.Source) -> None:
    """Returns when the domain has everything."""

    async def empty() -> bool:
        return (await one.usage()).batches == 0

    await until(empty)


CHILD = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from certs.home import Home
from certs.issuing import IssuingAuthority
from telltale.source.source import Source, SourceSettings
from tests.support.batches import DISK_USAGE, SERVERS, disk_usage
from tests.support.mesh import MESH, Mesh

async def main():
    home = Home(Path({home!r}))
    mesh = Mesh(home, MESH, {{"servers": IssuingAuthority.load(home.authority("servers"))}})
    settings = SourceSettings(Path({spool!r}), {address!r}, mesh.trust_domain("servers"))
    async with Source(mesh.workload("servers", "/agent/web1"), settings, SERVERS) as source:
        for number in range(100_000):
            await source.publish(DISK_USAGE, [disk_usage(str(number))])
            print("published", flush=True)
            if source.last_ack is not None:
                print("acked", flush=True)

asyncio.run(main())
"""


async def test_a_source_killed_in_mid_push_loses_nothing_and_repeats_nothing(
    servers: Running, mesh: Mesh, agent: Workload, tmp_path: Path
) -> None:
    spool = tmp_path / "spool.db"
    script = CHILD.format(
        root=str(Path(__file__).parents[2]),
        home=str(mesh.home.directory),
        spool=str(spool),
        address=servers.address,
    )
    command = [sys.executable, "-c", script]
    published = 0
    child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    async with asyncio.timeout(30):
        while (line := await child.stdout.readline()) != b"acked\n":
            assert line
            published += 1
        os.kill(child.pid, signal.SIGKILL)
        published += (await child.stdout.read()).count(b"published\n")
        await child.wait()
    async with servers.source(agent, spool) as again:
        await acked(again)
    found = await mountpoints(servers)
    # What was sealed but not said to be published when the kill came may be there too.
    assert len(found) >= published
    assert found == [str(number) for number in range(len(found))]
    assert [header.sequence for header, _ in await kept(servers)] == list(range(1, len(found) + 1))


async def test_a_refusal_for_good_becomes_a_declared_hole(
    servers: Running, agent: Workload, tmp_path: Path
) -> None:
    async with servers.source(agent, tmp_path / "spool.db") as one:
        await one.publish(DISK_USAGE, [disk_usage("/a")])
        await one.publish(DISK_USAGE, [disk_usage("x" * (MAX_PAYLOAD_BYTES + 1))])

        async def refused() -> bool:
            return one.holes_declared > 0

        await until(refused)
        await one.publish(DISK_USAGE, [disk_usage("/b")])
        await acked(one)
    (first, _), (third, _) = await kept(servers)
    assert (first.sequence, third.sequence) == (1, 3)
    ((hole),) = third.holes
    assert (hole.first_sequence, hole.last_sequence, hole.records) == (2, 2, 1)
    assert hole.reason == HoleReason.HOLE_REASON_REFUSED


async def test_a_full_disk_at_the_domain_holds_batches_up_and_loses_none(
    servers: Running, agent: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "backoff", lambda _: 0.02)
    database = servers.domain.log._database

    def bound(db: sqlite3.Connection) -> None:
        db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0]}")

    names = [f"/{number}".ljust(2_000, "x") for number in range(30)]
    async with servers.source(agent, tmp_path / "spool.db") as one:
        await one.publish(DISK_USAGE, [disk_usage("/")])
        await acked(one)
        await database.write(bound)
        for name in names:
            await one.publish(DISK_USAGE, [disk_usage(name)])
        await asyncio.wait_for(one._pusher._unreachable.wait(), 20)
        assert (await one.usage()).batches
        await database.write(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
        await acked(one)
        assert one.holes_declared == 0
    assert await mountpoints(servers) == ["/", *names]


async def test_what_does_not_fit_into_the_spool_is_declared(
    servers: Running, agent: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "spool.db"
    nobody = Running(servers.mesh, servers.domain, servers.name, "127.0.0.1:1")
    async with nobody.source(agent, spool, max_bytes=20_000) as one:
        await one.publish(INVENTORY, [host("a" * 10_000)])
        await one.publish(INVENTORY, [host("b" * 10_000), host("c" * 10_000)])
        assert one.records_lost == 2
    async with servers.source(agent, spool) as one:
        await one.publish(INVENTORY, [host("d")])
        await acked(one)
    (_, (second, _)) = await kept(servers, INVENTORY)
    ((loss),) = second.losses
    assert (loss.records, loss.reason) == (2, LossReason.LOSS_REASON_BOUND)


async def test_every_shed_batch_is_declared_once_though_its_declarer_is_shed_too(
    servers: Running, agent: Workload, tmp_path: Path
) -> None:
    spool = tmp_path / "spool.db"
    nobody = Running(servers.mesh, servers.domain, servers.name, "127.0.0.1:1")
    async with nobody.source(agent, spool, max_bytes=6_000) as one:
        for number in range(40):
            await one.publish(DISK_USAGE, [disk_usage(f"/{number}")])
    async with servers.source(agent, spool) as one:
        await one.publish(DISK_USAGE, [disk_usage("/last")])
        await acked(one)
    headers = [header for header, _ in await kept(servers)]
    holes = [hole for header in headers for hole in header.holes]
    declared = [number for hole in holes for number in range(hole.first_sequence, hole.last_sequence + 1)]
    assert sorted(declared + [header.sequence for header in headers]) == list(range(1, 42))
    assert sum(hole.records for hole in holes) == len(declared)


async def test_a_product_whose_schema_is_unknown_holds_up_no_other(
    servers: Running, agent: Workload, tmp_path: Path
) -> None:
    async with servers.source(agent, tmp_path / "spool.db") as one:
        await acked(one)
        known = one._schemas[DISK_USAGE]
        one._schemas[DISK_USAGE] = type(known)(b"x" * 32, b"")
        await one.publish(DISK_USAGE, [disk_usage("/")])
        await one.publish(INVENTORY, [host("web1")])
        await until(lambda: kept(servers, INVENTORY))

        async def one_is_left() -> bool:
            return (await one.usage()).batches == 1

        await until(one_is_left)
        assert one.holes_declared == 0


async def test_a_clock_that_ran_ahead_stops_nothing_for_long(
    servers: Running, agent: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "backoff", lambda _: 0.02)
    spool = tmp_path / "spool.db"
    nobody = Running(servers.mesh, servers.domain, servers.name, "127.0.0.1:1")
    real = time.time_ns
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time_ns", lambda: real() + 3_600_000_000_000)
        async with nobody.source(agent, spool) as one:
            await one.publish(DISK_USAGE, [disk_usage("/a")])
            await one.publish(DISK_USAGE, [disk_usage("/b")])
    async with servers.source(agent, spool) as one:
        await one.publish(DISK_USAGE, [disk_usage("/c")])
        await acked(one)
    assert await mountpoints(servers) == ["/a", "/b", "/c"]
    for header, _ in await kept(servers):
        assert header.sealed_time.ToDatetime(tzinfo=UTC) < datetime.now(UTC) + timedelta(minutes=1)


YEAR = 365 * 24 * 3600.0


class Clock:
    """A host's clock, which may be wrong by any number of seconds; everybody else's is right."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def time(self) -> float:
        return time.time() + self.ahead

    def time_ns(self) -> int:
        return time.time_ns() + int(self.ahead * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (source, pusher):
        monkeypatch.setattr(module, "time", made)
    monkeypatch.setattr(pusher, "backoff", lambda _: 0.02)
    return made


CLOCKS = [
    [0.0, 10 * YEAR],
    [10 * YEAR],
    [-10 * YEAR],
    [0.0, -10 * YEAR],
    [-56 * YEAR, 10 * YEAR, -YEAR],
    [YEAR, 0.0, -YEAR, 2 * YEAR],
    [600.0, -600.0, 200.0],
]


@pytest.mark.parametrize("clocks", CLOCKS)
@pytest.mark.parametrize("connected", [False, True], ids=["away", "connected"])
async def test_an_agent_whose_clock_was_wrong_loses_no_record_and_goes_on_once_it_is_right(
    servers: Running, agent: Workload, tmp_path: Path, clock: Clock, clocks: list[float], connected: bool
) -> None:
    nobody = Running(servers.mesh, servers.domain, servers.name, "127.0.0.1:1")
    wanted = []
    for number, clock.ahead in enumerate(clocks):
        async with (servers if connected else nobody).source(agent, tmp_path / "spool.db") as one:
            for part in "ab":
                wanted.append(f"/{number}{part}")
                await one.publish(DISK_USAGE, [disk_usage(wanted[-1])])
    clock.ahead = 0.0
    async with servers.source(agent, tmp_path / "spool.db") as one:
        await one.publish(DISK_USAGE, [disk_usage("/last")])
        await acked(one)
        assert one.holes_declared == 0
    assert await mountpoints(servers) == [*wanted, "/last"]
    # And a spool that is lost afterwards begins at once above what is known: nothing is stale until then.
    async with servers.source(agent, tmp_path / "new.db") as one:
        await one.publish(DISK_USAGE, [disk_usage("/new")])
        await acked(one)
    headers = [header for header, _ in await kept(servers)]
    assert max(header.epoch for header in headers) < (time.time() + 301) * 1_000
    assert sum(header.record_count for header in headers) == len(wanted) + 2


@pytest.mark.parametrize("ahead", [10 * YEAR, -10 * YEAR, -56 * YEAR, 3_600.0])
async def test_a_clock_that_jumps_under_a_live_stream_loses_no_record(
    servers: Running, agent: Workload, tmp_path: Path, clock: Clock, ahead: float
) -> None:
    wanted = ["/before", "/wrong", "/after"]
    async with servers.source(agent, tmp_path / "spool.db") as one:
        for mountpoint, clock.ahead in zip(wanted, (0.0, ahead, 0.0), strict=True):
            if mountpoint == "/after":
                # It was sent meanwhile, and is still here unless its seal holds.
                await asyncio.sleep(0.1)
            await one.publish(DISK_USAGE, [disk_usage(mountpoint)])
        await acked(one)
        assert one.holes_declared == 0
    assert await mountpoints(servers) == wanted


async def test_two_holders_of_one_identity_are_told_apart_from_a_spool_that_was_restored(
    servers: Running, agent: Workload, tmp_path: Path
) -> None:
    async with servers.source(agent, tmp_path / "spool.db") as first:
        await first.publish(DISK_USAGE, [disk_usage("/first-1")])
        await acked(first)
    shutil.copy(tmp_path / "spool.db", tmp_path / "copy.db")
    with structlog.testing.capture_logs() as logs:
        async with servers.source(agent, tmp_path / "spool.db") as first:
            await first.publish(DISK_USAGE, [disk_usage("/first-2")])
            await acked(first)
            # A copy that comes back alone begins a later chain, and that is all.
            async with servers.source(agent, tmp_path / "copy.db") as second:
                await second.publish(DISK_USAGE, [disk_usage("/second-1")])
                await acked(second)
                assert not _contested(logs)
                # The first one is still there and goes on: now there are two.
                await first.publish(DISK_USAGE, [disk_usage("/first-3")])
                await acked(first)
    assert _contested(logs)
    # Nobody can tell which of them is the right one: what both say is kept, each record once.
    assert await mountpoints(servers) == ["/first-1", "/first-2", "/second-1", "/first-3"]


def _contested(logs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [one for one in logs if "two hosts use one identity" in str(one.get("detail"))]


async def test_a_stream_is_opened_anew_at_the_end_of_its_life(
    servers: Running, agent: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_STREAM_SHARE", 0.0)
    monkeypatch.setattr(client, "_SHORTEST_STREAM", 0.03)
    async with servers.source(agent, tmp_path / "spool.db") as one:
        for number in range(30):
            await one.publish(DISK_USAGE, [disk_usage(str(number))])
            await asyncio.sleep(0.01)
        await acked(one)
    assert await mountpoints(servers) == [str(number) for number in range(30)]
