"""The analysis service: a domain service with its own log, and a consumer of everybody else's products."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Never, TypeVar

import duckdb

from services.analysis import episodes, outbox
from services.analysis.detection import Detection
from services.analysis.detections import DETECTIONS
from services.analysis.engine import Engine
from services.analysis.outbox import Outbox
from services.analysis.publisher import Publisher
from services.analysis.settings import AnalysisSettings
from services.analysis.state import State
from services.analysis.thresholds import Thresholds
from telltale.api.analysis.v1.findings_pb2 import FindingsRecord
from telltale.api.mesh.v1.batch_pb2 import Cursor
from telltale.api.mesh.v1.ingest_pb2 import PushRequest, PushResponse
from telltale.consume.chains import KnownChain
from telltale.consume.delivered import Item
from telltale.consume.groups import groups
from telltale.consume.subscription import Subscription
from telltale.contract.schema import Schema
from telltale.domain.service import Domain, serving_domain
from telltale.errors import Unavailable
from telltale.identity.workload import Workload

DOMAIN = "analysis"
POLICY = Path(__file__).with_name("policy.cedar")
_T = TypeVar("_T")
# Told findings are remembered as long as the product keeps them.
_FORGET_TOLD_SECONDS = 3_600.0
# Payload after which a commit waits for no more, that of one large frame: a backlog is read in such steps.
_COMMIT_BYTES = 8 << 20


class Analysis:
    """The engine and the outbox over one state, in the one thread that owns it. Use as `async with`."""

    def __init__(
        self, domain: Domain, directory: Path, thresholds: Thresholds, detections: Sequence[Detection]
    ):
        self._domain = domain
        self._thresholds = thresholds
        self._detections = detections
        rules = dict.fromkeys(table for detection in detections for table in detection.rule.tables)
        self._state = State(directory / "analysis.duckdb", (*episodes.TABLES, *outbox.TABLES, *rules))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="analysis")
        self.cursor = Cursor()
        self.chains: list[KnownChain] = []

    async def __aenter__(self) -> "Analysis":
        await self._run(self._open)
        return self

    async def __aexit__(self, *exception: object) -> None:
        # Work that was begun commits before the state is closed.
        await self._run(self._state.__exit__)
        self._thread.shutdown()

    async def take(self, items: Sequence[Item], now: datetime) -> list[FindingsRecord]:
        """Looks at what a subscription yielded; what is found is durable when this returns."""
        return self._found(await self._run(lambda: self._engine.take(items, now)))

    async def tick(self, now: datetime) -> list[FindingsRecord]:
        """Looks at what did not arrive."""
        return self._found(await self._run(lambda: self._engine.tick(now)))

    async def forget_told(self, before: datetime) -> None:
        await self._run(lambda: self._engine.forget_told(before))

    async def publish(self) -> Never:
        """Publishes what is found, for ever."""
        await self._publisher.run()

    def _open(self) -> None:
        me, products = self._domain.me, self._domain.products
        self._state.__enter__()
        self._engine = Engine(
            self._state, self._detections, self._thresholds, str(me.spiffe_id), me.trust.distrust
        )
        self.cursor, self.chains = self._state.cursor(), self._engine.chains()
        schema = Schema.of(products.image, products.contract(outbox.PRODUCT))
        out = Outbox(self._state, lambda: me.credentials, str(me.spiffe_id), schema.sha256)
        self._publisher = Publisher(out, self._run, self._accept, self._newest_epoch)

    def _found(self, records: list[FindingsRecord]) -> list[FindingsRecord]:
        if records:
            self._publisher.wake()
        return records

    async def _run(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except duckdb.Error as failed:
            # What was not committed is read again after a restart; going on with half a state would not do.
            first = str(failed).splitlines()[0]
            raise Unavailable(
                f"{self._state.path} failed: {first}; check the disk's space and health"
            ) from failed

    async def _accept(self, request: PushRequest) -> PushResponse:
        return await self._domain.ingest.accept(self._domain.me.spiffe_id, request)

    async def _newest_epoch(self) -> int:
        heads = await self._domain.log.heads(str(self._domain.me.spiffe_id))
        return max((head.epoch for head in heads if head.product == outbox.PRODUCT), default=0)


@contextlib.asynccontextmanager
async def analysing(
    domain: Domain, settings: AnalysisSettings, detections: Sequence[Detection] = DETECTIONS
) -> AsyncIterator[Analysis]:
    """Analyses everything that the gateway has while the body runs."""
    async with Analysis(domain, settings.state, settings, detections) as analysis:
        stream = Subscription(
            domain.me,
            settings.gateway,
            settings.products,
            analysis.cursor,
            chains=analysis.chains,
            schema_directory=settings.state / "schemas",
        )
        async with stream, asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(_read(stream, analysis, settings.commit_seconds)),
                tasks.create_task(_tick(analysis, settings.tick_seconds)),
                tasks.create_task(_forget(analysis, domain)),
                tasks.create_task(analysis.publish()),
            ]
            try:
                yield analysis
            finally:
                for task in running:
                    task.cancel()


async def run(settings: AnalysisSettings, stopping: asyncio.Event) -> None:
    """The whole service, until `stopping` is set."""
    async with (
        Workload.open(settings) as me,
        serving_domain(me, settings, DOMAIN, POLICY) as domain,
        analysing(domain, settings),
    ):
        await stopping.wait()


async def _read(stream: Subscription, analysis: Analysis, seconds: float) -> None:
    async with contextlib.aclosing(groups(stream, seconds, _COMMIT_BYTES)) as gathered:
        async for items in gathered:
            await analysis.take(items, datetime.now(UTC))


async def _tick(analysis: Analysis, every: float) -> Never:
    while True:
        await asyncio.sleep(every)
        await analysis.tick(datetime.now(UTC))


async def _forget(analysis: Analysis, domain: Domain) -> Never:
    retention = domain.products.contract(outbox.PRODUCT).options.retention.ToTimedelta()
    while True:
        await analysis.forget_told(datetime.now(UTC) - retention)
        await asyncio.sleep(_FORGET_TOLD_SECONDS)
