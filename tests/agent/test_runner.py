"""Collectors under the runner: none stops another, each is told of, and none runs beside itself."""

import asyncio
import itertools
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from datetime import timedelta

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from agent import lane
from agent.collectors import CannotCollect, CollectorFactory, Host, Watcher
from agent.collectors.servers import COLLECTORS
from agent.lane import next_due
from agent.runner import Runner
from agent.status import State
from telltale.api.mesh.v1.batch_pb2 import LOSS_REASON_BOUND, LOSS_REASON_FAILURE, Loss
from telltale.api.servers.v1.cpu_pb2 import CpuRecord
from telltale.api.servers.v1.logins_pb2 import LoginsRecord
from telltale.api.servers.v1.memory_pb2 import MemoryRecord
from telltale.contract.image import own_image
from telltale.contract.product import contracts_in
from telltale.errors import ConfigurationError
from tests.support.collecting import ListSink, collector

CONTRACTS = contracts_in(own_image("servers"))


def runner(sink: ListSink, host: Host, *factories: CollectorFactory) -> Runner:
    return Runner(factories, CONTRACTS, sink, host)


def fail(error: Exception) -> Iterable[Message]:
    raise error


async def until(condition: Callable[[], bool], running: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(20):
        while not condition():
            assert not running.done(), await running
            await asyncio.sleep(0.005)


async def until_published(sink: ListSink, running: "asyncio.Task[None]", count: int = 1) -> None:
    await until(lambda: len(sink.published) >= count, running)


async def test_a_failing_collector_stops_no_other() -> None:
    sink, host = ListSink(), Host()
    broken = collector("servers.cpu", lambda: fail(RuntimeError("no such sensor")))
    well = collector("servers.memory", lambda: [MemoryRecord(total_bytes=1)])
    task = asyncio.create_task(runner(sink, host, broken, well).run())
    await until_published(sink, task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [published.product for published in sink.published] == ["servers.memory"]
    cpu, memory = host.agent.collectors["servers.cpu"], host.agent.collectors["servers.memory"]
    assert (cpu.state, cpu.reason, cpu.failures) == (State.FAILING, "RuntimeError: no such sensor", 1)
    assert (memory.state, memory.reason, memory.records) == (State.OK, "", 1)


async def test_a_failure_is_declared_with_the_next_batch() -> None:
    sink, host = ListSink(), Host()
    readings = iter([lambda: fail(RuntimeError("gone")), lambda: [CpuRecord(cpu="all")]])
    lane = runner(sink, host, collector("servers.cpu", lambda: next(readings)())).lanes["servers.cpu"]
    await lane.look()
    assert sink.published == []
    await lane.look()
    assert [(loss.reason, loss.detail) for loss in sink.published[0].losses] == [
        (LOSS_REASON_FAILURE, "RuntimeError: gone")
    ]
    assert host.agent.collectors["servers.cpu"].state is State.OK


async def test_what_a_host_denies_is_told_once_with_its_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sink, host = ListSink(), Host()
    denied = collector("servers.units", lambda: fail(CannotCollect("systemd is not running")))
    units = runner(sink, host, denied).lanes["servers.units"]
    await units.look()
    first = host.agent.collectors["servers.units"]
    await units.look()
    again = host.agent.collectors["servers.units"]
    assert (first.state, first.reason) == (State.UNAVAILABLE, "systemd is not running")
    assert (again.since_unix_ns, again.runs, again.failures) == (first.since_unix_ns, 2, 0)
    assert sink.published == []
    assert capsys.readouterr().out.count("systemd is not running") == 1


async def test_a_partial_reading_is_degraded_and_kept() -> None:
    sink, host = ListSink(), Host()
    made = []

    def factory(host: Host) -> object:
        made.append(collector("servers.logins", lambda: [LoginsRecord()])(host))
        made[0].limited = "failed logins are not seen"
        return made[0]

    lane = runner(sink, host, factory).lanes["servers.logins"]  # type: ignore[arg-type]
    await lane.look()
    status = host.agent.collectors["servers.logins"]
    assert (status.state, status.reason, status.records) == (State.DEGRADED, "failed logins are not seen", 1)


async def test_a_slow_collector_is_told_of_and_never_started_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "STUCK_AFTER_SECONDS", 0.01)
    sink, host = ListSink(), Host()
    started, let_go = itertools.count(), threading.Event()

    def slow() -> Iterable[Message]:
        next(started)
        let_go.wait()
        return [CpuRecord(cpu="all")]

    quick = collector("servers.memory", lambda: [MemoryRecord()], seconds=0.01)
    task = asyncio.create_task(runner(sink, host, collector("servers.cpu", slow, seconds=0.01), quick).run())
    try:
        # The other collector goes on for many intervals of the slow one.
        await until_published(sink, task, 10)
        status = host.agent.collectors["servers.cpu"]
        assert status.state is State.FAILING
        assert "something hangs" in status.reason
        assert next(started) == 1
    finally:
        let_go.set()
    await until(lambda: host.agent.collectors["servers.cpu"].state is State.OK, task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_records_that_cannot_be_kept_are_counted_as_lost() -> None:
    sink, host = ListSink(broken=OSError("disk full")), Host()
    lane = runner(sink, host, collector("servers.cpu", lambda: [CpuRecord(), CpuRecord()])).lanes[
        "servers.cpu"
    ]
    await lane.look()
    status = host.agent.collectors["servers.cpu"]
    assert (status.state, status.lost, status.records) == (State.FAILING, 2, 0)
    assert host.agent.lost == 2
    sink.broken = None
    await lane.look()
    assert [loss.records for loss in sink.published[0].losses] == [2]


async def test_events_that_a_full_spool_does_not_take_are_counted_and_the_status_says_so() -> None:
    sink, host = ListSink(full=True), Host()
    lane = runner(sink, host, collector("servers.cpu", lambda: [CpuRecord(), CpuRecord()])).lanes[
        "servers.cpu"
    ]
    await lane.look()
    status = host.agent.collectors["servers.cpu"]
    assert (status.state, status.lost, status.records) == (State.FAILING, 2, 0)
    assert "the spool is full" in status.reason
    sink.full = False
    await lane.look()
    status = host.agent.collectors["servers.cpu"]
    assert (status.state, status.lost, status.records, status.reason) == (State.OK, 2, 2, "")
    # The sink itself has declared what it did not take.
    assert not sink.published[0].losses


async def test_one_reading_is_bounded_and_what_is_too_much_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane, "MAX_RECORDS", 10)
    sink, host = ListSink(), Host()
    endless = collector("servers.cpu", lambda: (CpuRecord() for _ in range(25)))
    await runner(sink, host, endless).lanes["servers.cpu"].look()
    (published,) = sink.published
    assert len(published.records) == 10
    assert [(loss.reason, loss.records) for loss in published.losses] == [(LOSS_REASON_BOUND, 15)]


class Told(Watcher):
    """A watcher whose kernel does as the test says."""

    product = "servers.logins"
    interval = timedelta(milliseconds=10)

    def __init__(self, host: Host) -> None:
        self.refusals: list[Exception] = []
        self.bursts: asyncio.Queue[list[Message]] = asyncio.Queue()
        self.closed = False
        self.looks = 0

    async def watch(self) -> AsyncGenerator[Iterable[Message], None]:
        if self.refusals:
            raise self.refusals.pop(0)
        try:
            while True:
                yield await self.bursts.get()
        finally:
            self.closed = True

    def collect(self) -> Iterable[Message]:
        self.looks += 1
        return [LoginsRecord(account="found"), Loss(detail="short sessions are missed")]


async def test_what_the_kernel_tells_is_handed_on_and_the_watch_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane, "GATHER_SECONDS", 0.01)
    sink, host, told = ListSink(), Host(), Told(Host())
    task = asyncio.create_task(runner(sink, host, lambda _: told).run())
    told.bursts.put_nowait([LoginsRecord(account="ada"), Loss(records=3, detail="overrun")])
    await until_published(sink, task)
    monkeypatch.setattr(lane, "GATHER_SECONDS", 3600.0)
    told.bursts.put_nowait([LoginsRecord(account="last")])
    await until(told.bursts.empty, task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told.closed
    assert told.looks == 0
    assert [record.account for published in sink.published for record in published.records] == ["ada", "last"]
    assert sink.published[0].losses[0].records == 3
    assert host.agent.collectors["servers.logins"].state is State.OK


async def test_a_watch_that_is_not_permitted_is_replaced_by_looking_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sink, host, told = ListSink(), Host(), Told(Host())
    told.refusals.append(CannotCollect("the agent lacks CAP_NET_ADMIN"))
    task = asyncio.create_task(runner(sink, host, lambda _: told).run())
    await until_published(sink, task, 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    status = host.agent.collectors["servers.logins"]
    assert (status.state, status.reason) == (State.DEGRADED, "the agent lacks CAP_NET_ADMIN")
    assert [loss.detail for loss in sink.published[0].losses] == ["short sessions are missed"]


async def test_a_watch_that_breaks_declares_a_loss_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lane, "RETRY_BROKEN_SECONDS", 0.0)
    monkeypatch.setattr(lane, "GATHER_SECONDS", 0.01)
    sink, host, told = ListSink(), Host(), Told(Host())
    told.refusals += [RuntimeError("bad message"), RuntimeError("bad message")]
    told.bursts.put_nowait([LoginsRecord(account="ada")])
    task = asyncio.create_task(runner(sink, host, lambda _: told).run())
    await until_published(sink, task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [loss.detail for loss in sink.published[0].losses] == ["watching broke: RuntimeError: bad message"]
    assert host.agent.collectors["servers.logins"].state is State.OK


@given(st.floats(0, 1e6), st.floats(0, 1e3), st.floats(0.1, 3600), st.floats(0, 1, exclude_max=True))
def test_readings_keep_to_their_grid(start: float, took: float, interval: float, phase: float) -> None:
    now = start + took
    due = next_due(now, start, interval, phase)
    assert now + interval / 2 - 1e-3 <= due <= now + interval * 1.5 + 1e-3
    steps = (due - start) / interval - phase
    assert steps == pytest.approx(round(steps), abs=1e-3)


async def test_the_collectors_of_this_machine_all_work_or_say_why_not() -> None:
    sink, host = ListSink(), Host()
    every = Runner(COLLECTORS, CONTRACTS, sink, host)
    for one in every.lanes.values():
        await one.look()
    states = {status.product: status for status in host.agent.every_collector()}
    assert states.keys() == every.lanes.keys()
    for status in states.values():
        assert status.state is not State.FAILING, status
        assert bool(status.reason) == (status.state is not State.OK), status
    kinds = {contract.name: contract.record.full_name for contract in CONTRACTS}
    for published in sink.published:
        for record in published.records:
            assert record.DESCRIPTOR.full_name == kinds[published.product]
            assert record.time.seconds > 0  # type: ignore[attr-defined]
    assert {"servers.cpu", "servers.memory", "servers.disk_usage", "servers.inventory"} <= {
        published.product for published in sink.published
    }


def test_products_are_chosen_by_pattern() -> None:
    chosen = Runner(COLLECTORS, CONTRACTS, ListSink(), Host(), products=("servers.disk_*", "servers.cpu"))
    assert sorted(chosen.lanes) == ["servers.cpu", "servers.disk_io", "servers.disk_usage"]


def test_every_product_of_the_domain_has_a_collector() -> None:
    assert sorted(factory(Host()).product for factory in COLLECTORS) == [
        contract.name for contract in CONTRACTS
    ]


@pytest.mark.parametrize(
    ("products", "intervals", "message"),
    [
        (("servers.nothing",), {}, "TELLTALE_COLLECT: servers.nothing names no collector"),
        (
            ("*",),
            {"servers.cpus": timedelta(seconds=1)},
            "TELLTALE_INTERVALS: .* no collector for servers.cpus",
        ),
    ],
)
def test_a_setting_that_names_nothing_is_refused(
    products: tuple[str, ...], intervals: dict[str, timedelta], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Runner(COLLECTORS, CONTRACTS, ListSink(), Host(), products=products, intervals=intervals)


def test_a_collector_without_contract_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"servers\.unheard_of, which no contract describes"):
        runner(ListSink(), Host(), collector("servers.unheard_of", list))
