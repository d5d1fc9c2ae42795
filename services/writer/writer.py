"""The writer's loop: what the subscription yields is committed in groups, cursor included."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC, datetime

import structlog

from services.writer import metrics
from services.writer.group import Tally
from services.writer.settings import WriterSettings
from services.writer.store import Store
from telltale.api.mesh.v1.batch_pb2 import Header
from telltale.consume.delivered import Delivered, Item
from telltale.consume.subscription import Subscription
from telltale.errors import BatchRefused, Unavailable
from telltale.identity.workload import Workload
from telltale.rpc.client import backoff
from telltale.source.telemetry import REFUSALS

_log = structlog.get_logger("telltale.writer")

# Told of every refusal: the header as far as it could be read, and what is wrong.
Report = Callable[[Header, BatchRefused], None]


async def write_for_ever(
    me: Workload, settings: WriterSettings, store: Store, report: Report, stopping: asyncio.Event
) -> None:
    """Stores what the mesh publishes until `stopping` is set; then commits what it has and returns."""
    async with Subscription(
        me,
        settings.gateway,
        settings.patterns,
        await store.cursor(),
        chains=await store.chains(),
        schema_directory=settings.state / "schemas",
    ) as stream:
        async with aclosing(groups(stream, settings, stopping)) as ready:
            async for group in ready:
                tally = await _commit(store, group, stopping)
                if tally is None:
                    return
                _count(group, tally)
                for item, refused in tally.refused:
                    # A refusal of its own report would go round for ever.
                    if (item.product, item.header.source) != (REFUSALS, str(me.spiffe_id)):
                        report(item.header, refused)


async def prune_for_ever(store: Store, seconds: float) -> None:
    """Removes what is past its retention, again and again."""
    while True:
        try:
            removed = await store.prune(datetime.now(UTC))
            if removed:
                metrics.PRUNED.add(removed)
        except Unavailable as failed:
            _log.warning("cannot remove old rows now", error=str(failed))
        await asyncio.sleep(seconds)


async def groups(
    stream: AsyncIterator[list[Item]], settings: WriterSettings, stopping: asyncio.Event
) -> AsyncGenerator[list[Item], None]:
    """Gathers items until enough time has passed or enough bytes have come; ends when `stopping` is set."""
    stopped = asyncio.create_task(stopping.wait())
    arriving: asyncio.Task[list[Item]] | None = None
    loop = asyncio.get_running_loop()
    try:
        while not stopped.done():
            group: list[Item] = []
            size = 0
            due: float | None = None
            while size < settings.commit_bytes and not stopped.done():
                arriving = arriving or asyncio.create_task(_next(stream))
                timeout = None if due is None else max(0.0, due - loop.time())
                await asyncio.wait((arriving, stopped), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if arriving.done():
                    items, arriving = arriving.result(), None
                    group += items
                    size += sum(_size(item) for item in items)
                    due = due if due is not None else loop.time() + settings.commit_seconds
                elif due is not None and loop.time() >= due:
                    break
            if group:
                yield group
    finally:
        stopped.cancel()
        if arriving is not None:
            arriving.cancel()
            await asyncio.gather(arriving, return_exceptions=True)


async def _next(stream: AsyncIterator[list[Item]]) -> list[Item]:
    return await anext(stream)


async def _commit(store: Store, group: list[Item], stopping: asyncio.Event) -> Tally | None:
    """Commits a group, however long the disk is full; None when the writer is to stop before it could."""
    attempt = 0
    while True:
        try:
            return await store.commit(group)
        except Unavailable as failed:
            if stopping.is_set():
                # Nothing is lost: the cursor stands before these batches.
                _log.error("stopped before the last batches could be stored", error=str(failed))
                return None
            # Nothing more is read meanwhile, so that the pressure goes back to the gateway's ring.
            _log.error("cannot store; trying again", error=str(failed))
            await asyncio.sleep(backoff(attempt))
            attempt += 1


def _count(group: list[Item], tally: Tally) -> None:
    metrics.COMMITS.add(1)
    metrics.BATCHES.add(tally.batches)
    metrics.RECORDS.add(tally.records)
    metrics.DUPLICATES.add(tally.duplicates)
    metrics.GAPS.add(tally.gaps)
    metrics.REFUSED.add(len(tally.refused))
    received = [item.received_time for item in group if isinstance(item, Delivered)]
    if received:
        metrics.LAG.record(max(0.0, (datetime.now(UTC) - min(received)).total_seconds()))


def _size(item: Item) -> int:
    return len(item.batch.payload) if isinstance(item, Delivered) else 0
