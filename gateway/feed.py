"""One live data product: the single upstream subscription that fills its ring, and what passed through it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Protocol

import structlog

from gateway import metrics
from gateway.frames import Batch, FrameReader, Missing
from gateway.ring import Ring
from telltale.api.mesh.v1.batch_pb2 import Position
from telltale.api.mesh.v1.stream_pb2 import Start
from telltale.contract import Contract
from telltale.errors import LimitExceeded, TelltaleError
from telltale.rpc.client import backoff

log = structlog.get_logger(__name__)

# A stream that lived this long was healthy: the next one is opened at once, and not as a failure.
_HEALTHY_SECONDS = 1.0


class ProductLog(Protocol):
    """The owner's log of one product."""

    def read(self, cursor: Sequence[Position], start: Start) -> AsyncGenerator[bytes, None]:
        """Frames after the cursor, then live ones. Raises TelltaleError when the stream breaks; returns when
        it is to be opened anew, from where the reader stands."""
        ...


class Feed:
    """A product's ring, its upstream, and its counts since this gateway first saw the product."""

    def __init__(self, contract: Contract, upstream: ProductLog, history: ProductLog, ring: Ring) -> None:
        self.contract = contract
        self.ring = ring
        # Read by subscribers who are behind the ring. Another connection than the upstream's, so that one
        # who reads slowly cannot hold up what everybody waits for.
        self.history = history
        self._upstream = upstream
        self.live_since = datetime.now(UTC)
        # Since when the upstream has been broken; None while it is not.
        self.broken_since: datetime | None = None
        self.withdrawn = False
        self.subscribers = 0
        self.records = 0
        self.batches = 0
        # Unix nanoseconds of the latest batch that passed; 0 before the first.
        self.last_event_time = 0
        self.last_received_time = 0

    @property
    def product(self) -> str:
        return self.contract.name

    async def run(self) -> None:
        """Keeps the upstream subscription open for as long as the product is live."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            opened = loop.time()
            try:
                await self._read()
                failures = 0
                continue
            except LimitExceeded as full:
                log.info("upstream reopened", product=self.product, reason=str(full))
            except TelltaleError as error:
                # A domain that restarts ends a stream too; only what cannot be opened again is out of order.
                log.info("upstream ended", product=self.product, reason=str(error), failures=failures)
            except Exception:
                # Whatever one owner's frames set off, the products of the others go on.
                log.exception("upstream failed", product=self.product)
            failures = 0 if loop.time() - opened > _HEALTHY_SECONDS else failures + 1
            if failures:
                if self.broken_since is None:
                    self.broken_since = datetime.now(UTC)
                    log.warning("upstream broken", product=self.product)
                await asyncio.sleep(backoff(failures))

    async def _read(self) -> None:
        reader = FrameReader(self.product)
        recovery: asyncio.TimerHandle | None = None
        try:
            async with contextlib.aclosing(self._upstream.read(self._cursor(), Start.START_LATEST)) as frames:
                async for data in frames:
                    if recovery is None:
                        # Not at once: a stream that opens and breaks again and again is not live.
                        recovery = asyncio.get_running_loop().call_later(_HEALTHY_SECONDS, self._recovered)
                    self._add(reader, data)
        finally:
            if recovery is not None:
                recovery.cancel()

    def _recovered(self) -> None:
        if self.broken_since is not None:
            self.broken_since, self.live_since = None, datetime.now(UTC)

    def _cursor(self) -> list[Position]:
        position = self.ring.position
        return [Position(product=self.product, log=position[0], offset=position[1])] if position else []

    def _add(self, reader: FrameReader, data: bytes) -> None:
        # The whole frame is read before any of it counts: a broken frame adds nothing.
        items = list(reader.read(data))
        before = self.ring.repeated
        batches = self.ring.extend(items)
        attributes = {"product": self.product}
        if batches:
            self._count(batches)
            metrics.BATCHES_IN.add(len(batches), attributes)
            metrics.BYTES_IN.add(sum(len(batch.wire) for batch in batches), attributes)
        if self.ring.repeated > before:
            metrics.REPEATS.add(self.ring.repeated - before, attributes)
        for item in items:
            if isinstance(item, Missing):
                metrics.GAPS.add(1, attributes)
                log.warning("gap", product=self.product, log=item.gap.log, after_offset=item.gap.after_offset)

    def _count(self, batches: list[Batch]) -> None:
        self.batches += len(batches)
        for batch in batches:
            self.records += batch.records
            self.last_event_time = max(self.last_event_time, batch.event_time)
            self.last_received_time = max(self.last_received_time, batch.received_time)
