"""From a real UDP port to a sink: what comes is handed on, and what is dropped is declared."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from agent.collectors import Host
from agent.outlet import Outlet
from agent.receiver import ports as ports_module
from agent.receiver.flows import kept
from agent.receiver.flows.table import Allowlist
from agent.receiver.lane import FlowLane
from agent.receiver.manifest import Address
from agent.receiver.ports import Ports
from agent.status import State
from telltale.api.network.v1.flows_pb2 import FlowsFrame, FlowsRecord
from telltale.errors import Precondition
from tests.support.collecting import Clock, ListSink
from tests.support.datagrams import (
    FIVE_TUPLE,
    FLOWS,
    a_set,
    five_tuple,
    packed,
    v5,
    v5_record,
    v9,
    v9_template,
)

LOOPBACK = Allowlist([ip_network("127.0.0.0/8")])


class Receiver:
    """A lane with a port, and whoever sends to it."""

    def __init__(self, ports: Ports, lane: FlowLane, sink: ListSink, host: Host, clock: Clock) -> None:
        self.ports = ports
        self.lane = lane
        self.sink = sink
        self.host = host
        self.clock = clock

    def send(self, *datagrams: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for datagram in datagrams:
                sender.sendto(datagram, tuple(self.ports.addresses[0]))

    def records(self) -> list[FlowsRecord]:
        return [
            record
            for published in self.sink.published
            for part in published.parts
            for record in FlowsFrame.Records.FromString(part.payload).records
        ]

    def losses(self) -> list[str]:
        return [loss.detail for published in self.sink.published for loss in published.losses]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 -- a sink tells no event
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def receiving(directory: Path, allowed: Allowlist = LOOPBACK) -> AsyncIterator[Receiver]:
    sink, host, clock = ListSink(), Host(), Clock()
    async with Ports([Address("127.0.0.1", 0)]) as ports:
        lane = FlowLane(ports, [allowed], FLOWS, Outlet(FLOWS, sink, clock), host, directory)
        running = asyncio.create_task(lane.run())
        try:
            yield Receiver(ports, lane, sink, host, clock)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_what_comes_to_the_port_is_handed_on(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        receiver.send(v5(v5_record(), v5_record()), v5(v5_record(ports=(1, 2)), sequence=2))
        await receiver.until(lambda: len(receiver.records()) == 3)
        assert receiver.records()[2].source_port == 1
        assert receiver.records()[0].exporter_address == packed("127.0.0.1")
        (row,) = receiver.lane.exporters()
        assert row.records == 3 and row.datagrams == 2
        assert receiver.host.agent.collectors["network.flows"].records == 3


async def test_what_was_read_before_the_end_is_handed_on(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        # The first turn is over, the next one is a quarter of a second away.
        await receiver.until(lambda: receiver.host.agent.collectors)
        receiver.send(v5(v5_record()))
        await asyncio.sleep(0.05)
    assert len(receiver.records()) == 1


async def test_after_a_restart_data_is_understood_before_the_next_template(tmp_path: Path) -> None:
    data = a_set(256, five_tuple("192.0.2.10", "198.51.100.7"))
    async with receiving(tmp_path) as receiver:
        receiver.send(v9(v9_template(256, FIVE_TUPLE), sequence=1))
        await receiver.until(lambda: receiver.lane.exporters())
    async with receiving(tmp_path) as receiver:
        # It is known, although nothing has come since.
        await receiver.until(lambda: receiver.lane.exporters())
        receiver.send(v9(data, sequence=2))
        await receiver.until(receiver.records)
        assert receiver.records()[0].source_address == packed("192.0.2.10")


async def test_a_file_of_exporters_that_does_not_read_is_no_reason_not_to_start(tmp_path: Path) -> None:
    for broken in ("", "{}", "[1]", '[{"address": "x"}]'):
        (tmp_path / kept.NAME).write_text(broken)
        assert kept.load(tmp_path) == []
    async with receiving(tmp_path) as receiver:
        receiver.send(v5(v5_record()))
        await receiver.until(receiver.records)


async def test_strangers_are_not_heard(tmp_path: Path) -> None:
    async with receiving(tmp_path, Allowlist([ip_network("192.0.2.0/24")])) as receiver:
        receiver.send(v5(v5_record()))
        await receiver.until(receiver.lane.exporters)
        assert not receiver.records()


async def test_datagrams_that_the_kernel_drops_are_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A buffer for a few datagrams, and nobody who empties it.
    monkeypatch.setattr(ports_module, "_WANTED_BUFFER", 4_096)
    monkeypatch.setattr(Ports, "_read", lambda self: None)
    async with receiving(tmp_path) as receiver:
        receiver.send(*(v5(v5_record(), sequence=number) for number in range(500)))
        told = receiver.host.agent.collectors
        await receiver.until(
            lambda: "network.flows" in told and told["network.flows"].state is State.DEGRADED
        )
        # A loss waits for the next batch, which is a sign of life where nothing comes.
        receiver.clock.now += 3_600
        await receiver.until(receiver.losses)
        assert "the kernel dropped datagrams at 127.0.0.1" in receiver.losses()[0]


async def test_more_datagrams_than_fit_into_memory_are_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports_module, "_MOST_WAITING_BYTES", 1_000)
    async with receiving(tmp_path) as receiver:
        for first in range(0, 1_000, 20):
            receiver.send(*(v5(v5_record(), sequence=number) for number in range(first, first + 20)))
            await asyncio.sleep(0)

        def told() -> bool:
            receiver.send(v5(v5_record(), v5_record()))
            return any("faster than" in text for text in receiver.losses())

        await receiver.until(told)
        assert receiver.records()


async def test_a_sink_that_takes_nothing_loses_the_flows_and_says_so(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        receiver.sink.broken = OSError("the disk is full")
        receiver.send(v5(v5_record()))
        flows = receiver.host.agent.collectors
        await receiver.until(
            lambda: "network.flows" in flows and flows["network.flows"].state is State.FAILING
        )
        receiver.sink.broken = None
        receiver.send(v5(v5_record(), sequence=1))
        await receiver.until(receiver.records)
        assert any("could not be kept: the disk is full" in text for text in receiver.losses())


async def test_a_port_that_is_taken_is_refused_with_what_to_do() -> None:
    async with Ports([Address("127.0.0.1", 0)]) as first:
        with pytest.raises(Precondition, match="free it, or correct the manifest"):
            async with Ports([first.addresses[0]]):
                pass
