"""A process's own metrics as the product `mesh.processes`, and what it refuses as `mesh.refusals`.

What it decides is told beside these, as `mesh.audit`: see audit.py.

Instruments are OpenTelemetry's: `metrics.get_meter("telltale.x").create_counter(...)`, anywhere in the
process.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import structlog
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.sdk.metrics.export import Metric, MetricsData, NumberDataPoint, Sum

import telltale
from telltale import naming
from telltale.api.mesh.v1.batch_pb2 import Header, Loss, LossReason
from telltale.api.platform.v1.processes_pb2 import MetricAttribute, MetricKind, ProcessesRecord
from telltale.api.platform.v1.refusals_pb2 import RefusalsRecord
from telltale.audit import UNRECORDED, Auditor
from telltale.contract.image import own_image
from telltale.errors import BatchRefused
from telltale.identity.workload import Workload
from telltale.naming import SpiffeId
from telltale.source.audit import AUDIT, Audit
from telltale.source.own import Publish, half_of_freshness, own_source
from telltale.source.vitals import process_meters

PROCESSES = "mesh.processes"
REFUSALS = "mesh.refusals"

_INTERVAL = timedelta(seconds=10)
# Refusals are gathered this long, so that a flood of them becomes few batches.
_GATHER_SECONDS = 1.0
_MAX_WAITING_REFUSALS = 1000
# A refused batch may claim anything at any length.
_MAX_CLAIM = 512

log = structlog.get_logger(__name__)


@asynccontextmanager
async def self_metrics(me: Workload, role: str, state: Path, platform: str) -> "AsyncIterator[Telemetry]":
    """Publishes what this process measures, refuses and decides to the platform's domain service for as long
    as the body runs.

    role: what the process is, such as `gateway`. state: its directory, where the spool is kept.
    platform: `host:port` of the platform's domain service.
    """
    image = own_image(naming.PLATFORM)
    async with (
        own_source(me, state, platform) as source,
        Audit(source.publish, role, sign_of_life=half_of_freshness(image, AUDIT)) as audit,
        Telemetry(
            source.publish, role, sign_of_life=half_of_freshness(image, REFUSALS), audit=audit
        ) as telemetry,
    ):
        yield telemetry


class Telemetry:
    """Reads this process's metrics at an interval and publishes them. Use as `async with`.

    sign_of_life: after so long without refusals an empty batch says that there were none.
    audit: keeps record of what this process decides.
    """

    def __init__(
        self,
        publish: Publish,
        role: str,
        interval: timedelta = _INTERVAL,
        *,
        sign_of_life: timedelta,
        audit: Auditor = UNRECORDED,
    ) -> None:
        self.audit = audit
        self._publish = publish
        self._role = role
        self._sign_of_life = sign_of_life.total_seconds()
        self._instance = f"{socket.gethostname()}:{os.getpid()}"
        self._interval = interval.total_seconds()
        self._reader, self._lag = process_meters()
        self._refusals: deque[RefusalsRecord] = deque()
        self._refusals_dropped = 0
        self._refused = asyncio.Event()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._running = [
            self._tasks.create_task(work)
            for work in (self._lag.watch(), self._publish_metrics(), self._publish_refusals())
        ]
        return self

    async def __aexit__(self, *exception: object) -> None:
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(None, None, None)
        if self._refusals:
            await self._tell_refusals()

    def report_refusal(self, header: Header, refused: BatchRefused, peer: SpiffeId | None = None) -> None:
        """Tells of a batch that this process did not take. Never waits; call it on the event loop.

        header: as far as it could be read. peer: who handed the batch in, when somebody did.
        """
        if len(self._refusals) >= _MAX_WAITING_REFUSALS:
            self._refusals_dropped += 1
            return
        self._refusals.append(
            RefusalsRecord(
                time=_now(),
                reporter=self._role,
                product=header.product[:_MAX_CLAIM],
                batch_source=header.source[:_MAX_CLAIM],
                epoch=header.epoch,
                sequence=header.sequence,
                reason=refused.reason,
                detail=refused.detail[:_MAX_CLAIM],
                peer=str(peer or ""),
            )
        )
        self._refused.set()

    async def _publish_metrics(self) -> None:
        while True:
            # On the loop: other modules' instruments may look at what the loop owns, and looking is quick.
            data: Any = self._reader.get_metrics_data()
            if data is not None:
                await self._try_publish(PROCESSES, list(self._points(data)))
            await asyncio.sleep(self._interval)

    async def _publish_refusals(self) -> None:
        while True:
            # The first is told at the start: nobody knows how long ago an earlier process told its last.
            await self._tell_refusals()
            try:
                async with asyncio.timeout(self._sign_of_life):
                    await self._refused.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(_GATHER_SECONDS)

    async def _tell_refusals(self) -> None:
        """Publishes what was refused since; an empty batch, if nothing was."""
        self._refused.clear()
        records = list(self._refusals)
        self._refusals.clear()
        dropped, self._refusals_dropped = self._refusals_dropped, 0
        losses = []
        if dropped:
            detail = f"more than {_MAX_WAITING_REFUSALS} refusals within {_GATHER_SECONDS:g} s"
            losses.append(Loss(records=dropped, reason=LossReason.LOSS_REASON_BOUND, detail=detail))
        await self._try_publish(REFUSALS, records, losses)

    async def _try_publish(
        self, product: str, records: Sequence[Message], losses: Sequence[Loss] = ()
    ) -> None:
        try:
            await self._publish(product, records, losses=losses)
        except Exception as failed:
            # A process does its work even when it cannot tell how it fares.
            log.warning(
                "own metrics not published", product=product, records=len(records), reason=str(failed)
            )

    def _points(self, data: MetricsData) -> Iterator[ProcessesRecord]:
        time = _now()
        for resource in data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for suffix, unit, kind, value, attributes in values_of(metric):
                        yield ProcessesRecord(
                            time=time,
                            role=self._role,
                            instance=self._instance,
                            version=telltale.__version__,
                            metric=metric.name + suffix,
                            metric_unit=unit,
                            metric_kind=kind,
                            attributes=attributes,
                            value=value,
                        )


def values_of(metric: Metric) -> Iterator[tuple[str, str, MetricKind, float, list[MetricAttribute]]]:
    """Every number of a metric: suffix of the name, unit, kind, value, attributes.

    A distribution becomes two totals, `.count` and `.sum`.
    """
    unit = metric.unit or "1"
    total = isinstance(metric.data, Sum) and metric.data.is_monotonic
    kind = MetricKind.METRIC_KIND_COUNTER if total else MetricKind.METRIC_KIND_GAUGE
    for point in metric.data.data_points:
        attributes = _attributes(point.attributes or {})
        if isinstance(point, NumberDataPoint):
            yield "", unit, kind, point.value, attributes
        else:
            yield ".count", "1", MetricKind.METRIC_KIND_COUNTER, point.count, attributes
            yield ".sum", unit, MetricKind.METRIC_KIND_COUNTER, point.sum, attributes


def _attributes(attributes: Mapping[str, Any]) -> list[MetricAttribute]:
    return [MetricAttribute(name=name, value=str(attributes[name])) for name in sorted(attributes)]


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now
