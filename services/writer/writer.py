"""The writer's loop: what the subscription yields is committed in groups, cursor included."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime

import structlog

from services.writer import metrics
from services.writer.group import Tally
from services.writer.settings import WriterSettings
from services.writer.store import Store
from telltale.api.mesh.v1.batch_pb2 import Header
from telltale.consume.delivered import Delivered, Item
from telltale.consume.groups import groups
from telltale.consume.subscription import Subscription
from telltale.errors import BatchRefused, Unavailable
from telltale.identity.workload import Workload
from telltale.rpc.client import backoff
from telltale.source.telemetry import REFUSALS

_log = structlog.get_logger("telltale.writer")

# At five files a second, no more than this many times five wait to be merged.
_MERGE_SECONDS = 2.0

# Told of every refusal: the header as far as it could be read, and what is wrong.
Report = Callable[[Header, BatchRefused], None]


async def write_for_ever(
    me: Workload, settings: WriterSettings, store: Store, report: Report, stopping: asyncio.Event
) -> None:
    """Stores what the mesh publishes until `stopping` is set; then commits what it has and returns."""
    async with Subscription(
        me,
        settings.gateway,
        settings.products,
        await store.cursor(),
        chains=await store.chains(),
        schema_directory=settings.state / "schemas",
    ) as stream:
        async with aclosing(
            groups(stream, settings.commit_seconds, settings.commit_bytes, stopping)
        ) as ready:
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


async def keep_files_few(store: Store) -> None:
    """Merges small files and deletes those that are no longer read, again and again."""
    while True:
        more = False
        try:
            more = await store.merge()
            await store.sweep(datetime.now(UTC))
        except Unavailable as failed:
            _log.warning("cannot merge files now", error=str(failed))
        if not more:
            await asyncio.sleep(_MERGE_SECONDS)


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
