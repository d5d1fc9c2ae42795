"""What reaches the sink: differences of inventories, snapshots, losses, signs of life."""

import pytest

from agent.outlet import Outlet
from telltale.api.mesh.v1.batch_pb2 import LOSS_REASON_FAILURE, LOSS_REASON_METHOD, Loss
from telltale.api.servers.v1.collectors_pb2 import CollectorsRecord
from telltale.api.servers.v1.listeners_pb2 import ListenersRecord
from telltale.api.servers.v1.logins_pb2 import LoginsRecord
from telltale.contract.image import own_image
from telltale.contract.product import contracts_in
from tests.support.collecting import Clock, ListSink, Published

CONTRACTS = {contract.name: contract for contract in contracts_in(own_image("servers"))}


def listener(port: int, process: str = "web", *, at: int = 1) -> ListenersRecord:
    record = ListenersRecord(transport="tcp", address="::", port=port, process_id=7, process=process)
    record.time.seconds = at
    return record


@pytest.fixture
def sink() -> ListSink:
    return ListSink()


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_an_inventory_starts_with_a_snapshot_and_goes_on_with_differences(
    sink: ListSink, clock: Clock
) -> None:
    outlet = Outlet(CONTRACTS["servers.listeners"], sink, clock)
    await outlet.put([listener(80), listener(22)])
    await outlet.put([listener(80, at=2), listener(443, at=2)])
    first, second = sink.published
    assert first == Published("servers.listeners", (listener(80), listener(22)), snapshot=True)
    assert second.records == (listener(443, at=2),)
    assert second.removed == (ListenersRecord(transport="tcp", address="::", port=22, process_id=7),)


async def test_an_unchanged_inventory_is_silent(sink: ListSink, clock: Clock) -> None:
    outlet = Outlet(CONTRACTS["servers.listeners"], sink, clock)
    await outlet.put([listener(80)])
    sink.take()
    await outlet.put([listener(80, at=99)])
    assert sink.published == []


async def test_a_changed_row_is_sent_again(sink: ListSink, clock: Clock) -> None:
    outlet = Outlet(CONTRACTS["servers.listeners"], sink, clock)
    await outlet.put([listener(80)])
    await outlet.put([listener(80, "implant")])
    assert sink.published[1].records == (listener(80, "implant"),)
    assert sink.published[1].removed == ()


async def test_a_measurement_alone_is_no_change(sink: ListSink, clock: Clock) -> None:
    outlet = Outlet(CONTRACTS["servers.collectors"], sink, clock)
    await outlet.put([CollectorsRecord(product="servers.cpu", runs=1, last_duration_seconds=0.1)])
    await outlet.put([CollectorsRecord(product="servers.cpu", runs=2, last_duration_seconds=0.2)])
    await outlet.put([CollectorsRecord(product="servers.cpu", runs=3, reason="broken")])
    assert [published.records[0].runs for published in sink.published] == [1, 3]


async def test_a_snapshot_is_sent_hourly_and_after_every_hole(sink: ListSink, clock: Clock) -> None:
    outlet = Outlet(CONTRACTS["servers.listeners"], sink, clock)
    snapshots = []
    for seconds, holes in ((0, 0), (3599, 0), (1, 0), (10, 1), (10, 1)):
        clock.now += seconds
        sink.holes_declared = holes
        await outlet.put([listener(80)])
        snapshots.append([published.snapshot for published in sink.take()])
    assert snapshots == [[True], [], [True], [True], []]


async def test_an_empty_inventory_is_a_snapshot_too(sink: ListSink, clock: Clock) -> None:
    outlet = Outlet(CONTRACTS["servers.listeners"], sink, clock)
    await outlet.put([])
    assert sink.published == [Published("servers.listeners", (), snapshot=True)]


async def test_a_difference_that_was_not_kept_is_followed_by_a_snapshot(sink: ListSink, clock: Clock) -> None:
    outlet = Outlet(CONTRACTS["servers.listeners"], sink, clock)
    await outlet.put([listener(80)])
    sink.take()
    sink.broken = OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        await outlet.put([listener(80), listener(22)])
    sink.broken = None
    await outlet.put([listener(80), listener(22)])
    assert [(published.snapshot, len(published.records)) for published in sink.published] == [(True, 2)]


async def test_losses_wait_for_records_and_are_added_up(sink: ListSink, clock: Clock) -> None:
    outlet = Outlet(CONTRACTS["servers.logins"], sink, clock)
    missed = Loss(records=2, reason=LOSS_REASON_METHOD, detail="short sessions are missed")
    await outlet.put([], [missed])
    await outlet.put([], [missed, Loss(reason=LOSS_REASON_FAILURE, detail="it broke")])
    assert sink.published == []
    await outlet.put([LoginsRecord(account="ada")])
    (published,) = sink.take()
    assert [(loss.records, loss.detail) for loss in published.losses] == [
        (4, "short sessions are missed"),
        (0, "it broke"),
    ]
    await outlet.put([LoginsRecord(account="ada")])
    assert sink.published[0].losses == ()


async def test_losses_that_could_not_be_kept_are_declared_later(sink: ListSink, clock: Clock) -> None:
    outlet = Outlet(CONTRACTS["servers.logins"], sink, clock)
    sink.broken = OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        await outlet.put([LoginsRecord()], [Loss(records=1, detail="one")])
    sink.broken = None
    await outlet.put([LoginsRecord()])
    assert [loss.detail for loss in sink.published[0].losses] == ["one"]


async def test_ever_new_losses_stay_bounded_and_their_records_counted(sink: ListSink, clock: Clock) -> None:
    outlet = Outlet(CONTRACTS["servers.logins"], sink, clock)
    await outlet.put([LoginsRecord()], [Loss(records=1, detail=f"loss {n}") for n in range(1000)])
    losses = sink.published[0].losses
    assert len(losses) == 16
    assert sum(loss.records for loss in losses) == 1000


async def test_a_source_with_nothing_to_tell_shows_that_it_lives(sink: ListSink, clock: Clock) -> None:
    outlet = Outlet(CONTRACTS["servers.logins"], sink, clock)
    freshness = CONTRACTS["servers.logins"].options.freshness.seconds
    signs = []
    for _ in range(freshness):
        clock.now += 1
        await outlet.put([])
        signs.append(len(sink.take()))
    assert sum(signs) == 2
