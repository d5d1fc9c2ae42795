"""A group ends by time, by size or by stopping, and nothing that arrived is left behind."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from telltale.consume.delivered import Item
from telltale.consume.groups import groups
from tests.support.batches import Chain, disk_usage
from tests.support.deliveries import Log
from tests.support.mesh import Mesh


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.create(tmp_path / "mesh", "servers")


async def test_a_group_ends_when_its_first_item_has_waited_long_enough(mesh: Mesh) -> None:
    chain, log = Chain(mesh.credentials("servers", "/agent/web1")), Log()
    items = [log.deliver(chain.next([disk_usage("/")])) for _ in range(2)]

    async def stream() -> AsyncIterator[list[Item]]:
        for item in items:
            yield [item]
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        async for group in groups(stream(), 0.05, 1 << 20):
            assert group[0] is items[0]
            break


async def test_stopping_hands_on_what_has_arrived(mesh: Mesh) -> None:
    stopping = asyncio.Event()
    item = Log().deliver(Chain(mesh.credentials("servers", "/agent/web1")).next([disk_usage("/")]))

    async def stream() -> AsyncIterator[list[Item]]:
        yield [item]
        # Asked for more: the first is in the group, which only stopping can end.
        stopping.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        assert [group async for group in groups(stream(), 10.0, 1 << 20, stopping)] == [[item]]


async def test_a_group_ends_when_enough_bytes_have_come(mesh: Mesh) -> None:
    chain, log = Chain(mesh.credentials("servers", "/agent/web1")), Log()
    stopping = asyncio.Event()
    items = [log.deliver(chain.next([disk_usage("x" * 400_000)])) for _ in range(6)]

    async def stream() -> AsyncIterator[list[Item]]:
        for item in items:
            yield [item]
        stopping.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        found = [len(group) async for group in groups(stream(), 10.0, 1 << 20, stopping)]
    assert found == [3, 3]


async def test_what_came_while_a_group_was_dealt_with_does_not_wait_anew(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, log = Chain(mesh.credentials("servers", "/agent/web1")), Log()
    items = [log.deliver(chain.next([disk_usage("x" * length)])) for length in (400_000, 1)]
    loop = asyncio.get_running_loop()
    real, ahead = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: real() + ahead)

    async def stream() -> AsyncIterator[list[Item]]:
        for item in items:
            yield [item]
        await asyncio.Event().wait()

    # The first item alone is enough for a group; the second has to wait for its time.
    gathered = groups(stream(), 3_600.0, 300_000)
    assert await anext(gathered) == [items[0]]
    await asyncio.sleep(0)
    ahead = 3_600.0
    async with asyncio.timeout(5):
        assert await anext(gathered) == [items[1]]
    await gathered.aclose()
