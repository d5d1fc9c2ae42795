"""A process publishes what it measures and what it refuses, and works on when it cannot."""

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import AsyncIterable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from opentelemetry import metrics

from telltale.api.mesh.v1.batch_pb2 import Header, Loss, LossReason
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.api.mesh.v1.stream_pb2 import SubscribeRequest
from telltale.api.platform.v1.processes_pb2 import MetricKind
from telltale.api.platform.v1.processes_pb2_grpc import ProcessesStub
from telltale.api.platform.v1.refusals_pb2_grpc import RefusalsStub
from telltale.contract.image import own_image
from telltale.contract.product import contracts_in
from telltale.errors import BatchRefused, Unavailable
from telltale.naming import SpiffeId
from telltale.source.own import half_of_freshness
from telltale.source.telemetry import PROCESSES, REFUSALS, Telemetry, self_metrics
from tests.support.domain import DOMAINS, running
from tests.support.mesh import Mesh

PEER = SpiffeId.parse("spiffe://servers.telltale.internal/agent/h1")
FORK = BatchRefused(RefusalReason.REFUSAL_REASON_FORK, "the place is taken")


class Published:
    """Takes what is published, as a source does."""

    def __init__(self, failing: bool = False) -> None:
        self.records: defaultdict[str, list[Any]] = defaultdict(list)
        self.losses: list[Loss] = []
        self.batches: Counter[str] = Counter()
        self.failing = failing
        self.calls = 0
        self._changed = asyncio.Condition()

    async def __call__(
        self, product: str, records: Sequence[Message], *, losses: Sequence[Loss] = ()
    ) -> None:
        self.calls += 1
        async with self._changed:
            if not self.failing:
                self.batches[product] += 1
                self.records[product] += records
                self.losses += losses
            self._changed.notify_all()
        if self.failing:
            raise Unavailable("the spool is gone")

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(condition)

    def points(self, metric: str) -> list[Any]:
        return [record for record in self.records[PROCESSES] if record.metric == metric]


def telemetry(publish: Published, interval: float = 0.01, sign_of_life: float = 3600) -> Telemetry:
    return Telemetry(
        publish, "tester", timedelta(seconds=interval), sign_of_life=timedelta(seconds=sign_of_life)
    )


async def test_every_process_tells_its_vitals() -> None:
    published = Published()
    async with telemetry(published):
        await published.until(lambda: len(published.points("process.cpu.time")) > 1)
    first, later = published.points("process.cpu.time")[:2]
    assert first.metric_kind == MetricKind.METRIC_KIND_COUNTER and first.metric_unit == "s"
    assert 0 < first.value <= later.value
    assert first.role == "tester" and first.instance.endswith(f":{os.getpid()}") and first.version
    assert first.HasField("time")
    (memory, *_), (files, *_), (uptime, *_) = (
        published.points(name)
        for name in ("process.memory.usage", "process.unix.file_descriptor.count", "process.uptime")
    )
    assert 10 << 20 < memory.value < 10 << 30
    assert files.value >= 3
    assert 0 < uptime.value < 86400
    assert published.points("telltale.event_loop.lag")


async def test_instruments_of_any_module_are_published_with_their_attributes() -> None:
    meter = metrics.get_meter("test")
    counter = meter.create_counter("test.batches", unit="{batch}")
    level = meter.create_up_down_counter("test.level")
    delay = meter.create_histogram("test.delay", unit="s")
    published = Published()
    async with telemetry(published):
        counter.add(2, {"product": "servers.cpu", "a": 1})
        counter.add(3, {"product": "servers.cpu", "a": 1})
        level.add(-4)
        delay.record(0.5)
        delay.record(1.5)
        await published.until(lambda: any(one.value == 2 for one in published.points("test.delay.sum")))
    total = published.points("test.batches")[-1]
    assert total.value == 5 and total.metric_kind == MetricKind.METRIC_KIND_COUNTER
    assert [(one.name, one.value) for one in total.attributes] == [("a", "1"), ("product", "servers.cpu")]
    assert published.points("test.level")[-1].value == -4
    assert published.points("test.level")[-1].metric_kind == MetricKind.METRIC_KIND_GAUGE
    assert published.points("test.delay.count")[-1].value == 2


async def test_a_refusal_is_published_with_who_and_why() -> None:
    published = Published()
    header = Header(product="servers.cpu", source="x" * 9999, epoch=7, sequence=3)
    async with telemetry(published) as mine:
        mine.report_refusal(header, FORK, PEER)
    (record,) = published.records[REFUSALS]
    assert (record.reporter, record.product, record.epoch, record.sequence) == ("tester", "servers.cpu", 7, 3)
    assert record.reason == RefusalReason.REFUSAL_REASON_FORK and record.detail == "the place is taken"
    assert record.peer == str(PEER) and len(record.batch_source) == 512


async def test_refusals_are_published_while_the_process_runs() -> None:
    published = Published()
    async with telemetry(published, interval=3600) as mine:
        mine.report_refusal(Header(), FORK)
        await published.until(lambda: bool(published.records[REFUSALS]))


async def test_without_refusals_an_empty_batch_says_so_again_and_again() -> None:
    published = Published()
    async with telemetry(published, interval=3600, sign_of_life=0.01) as mine:
        await published.until(lambda: published.batches[REFUSALS] >= 3)
        assert published.records[REFUSALS] == []
        mine.report_refusal(Header(), FORK)
        await published.until(lambda: bool(published.records[REFUSALS]))
    assert len(published.records[REFUSALS]) == 1


async def test_a_process_says_at_its_start_that_it_refused_nothing_and_then_keeps_quiet() -> None:
    published = Published()
    async with telemetry(published):
        await published.until(lambda: published.batches[PROCESSES] >= 5)
    assert published.batches[REFUSALS] == 1


def test_signs_of_life_come_at_half_of_what_the_contract_promises() -> None:
    image = own_image("platform")
    for contract in contracts_in(image):
        assert half_of_freshness(image, contract.name) * 2 == contract.options.freshness.ToTimedelta()


async def test_a_flood_of_refusals_is_bounded_and_the_rest_declared() -> None:
    published = Published()
    async with telemetry(published) as mine:
        for _ in range(1500):
            mine.report_refusal(Header(), FORK)
    assert len(published.records[REFUSALS]) == 1000
    (loss,) = published.losses
    assert loss.records == 500 and loss.reason == LossReason.LOSS_REASON_BOUND


async def test_a_process_works_on_when_it_cannot_publish() -> None:
    published = Published(failing=True)
    async with telemetry(published) as mine:
        mine.report_refusal(Header(), FORK)
        await published.until(lambda: published.calls >= 3)


async def first_batch(frames: AsyncIterable[Any]) -> Any:
    """The first batch with records; marks and signs of life come in between."""
    async for frame in frames:
        for batch in frame.batches:
            if batch.payload.records:
                return batch
    raise AssertionError("the stream ended")


async def test_metrics_and_refusals_arrive_at_the_platform(tmp_path: Path) -> None:
    mesh = Mesh.create(tmp_path / "mesh", *DOMAINS)
    async with running(mesh, tmp_path, "platform") as platform:
        writer = mesh.workload("platform", "/writer")
        async with (
            self_metrics(mesh.workload("servers", "/service"), "tester", tmp_path, platform.address) as mine,
            platform.channel(writer) as channel,
        ):
            mine.report_refusal(Header(product="servers.cpu"), FORK, PEER)
            metadata = await platform.metadata(writer)
            processes = ProcessesStub(channel).Subscribe(SubscribeRequest(), metadata=metadata)
            refusals = RefusalsStub(channel).Subscribe(SubscribeRequest(), metadata=metadata)
            async with asyncio.timeout(10):
                batch = await first_batch(processes)
                refused = await first_batch(refusals)
    assert {"process.cpu.time", "process.memory.usage"} <= {one.metric for one in batch.payload.records}
    assert batch.header.source == str(mesh.spiffe_id("servers", "/service"))
    assert [one.peer for one in refused.payload.records] == [str(PEER)]


def test_the_products_that_are_published_are_promised() -> None:
    assert {contract.name for contract in contracts_in(own_image("platform"))} >= {PROCESSES, REFUSALS}
