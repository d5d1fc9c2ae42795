"""What was stored before it was known not to be believed: its rows say so from then on.

Rows are marked, never removed, and a word that is lifted unmarks nothing: what was sealed meanwhile stays
what it was. Marking again changes nothing, so it begins anew with every start and every change.
"""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from sqlite3 import Connection
from typing import Any, Never

import structlog

from services.writer import manifest, metrics, sql
from services.writer.plans import Place
from services.writer.provenance import DISTRUSTED
from services.writer.rows import time_text
from services.writer.store import Store
from telltale.errors import Unavailable
from telltale.identity.distrust import Distrust, Entry
from telltale.rpc.client import backoff

# Batches that one transaction marks: short enough that storing goes on.
MARKED_AT_ONCE = 200
# Batches of one word and product that get a row in quarantine. All of their rows are marked; but the
# quarantine is bounded, and one word must not push everything else out of it.
QUARANTINED = 200
# Sorts behind every time.
_NEVER = "9999-12-31 23:59:60"

_log = structlog.get_logger("telltale.writer")


async def mark_for_ever(distrust: Distrust, store: Store) -> Never:
    """Marks what the words say now, and again whenever they change."""
    with distrust.listening() as changed:
        while True:
            changed.clear()
            await _mark_patiently(distrust.entries, store)
            await changed.wait()


async def _mark_patiently(entries: Iterable[Entry], store: Store) -> None:
    attempt = 0
    while True:
        try:
            marked = await mark(entries, store)
        except Unavailable as failed:
            _log.error("cannot mark what is distrusted; trying again", error=str(failed))
            await asyncio.sleep(backoff(attempt))
            attempt += 1
            continue
        if marked:
            metrics.DISTRUSTED.add(marked)
            _log.warning("what was stored is marked as distrusted", batches=marked)
        return


async def mark(entries: Iterable[Entry], store: Store) -> int:
    """Marks the rows of every stored batch that an entry covers; returns the batches with rows to mark."""
    marked = 0
    for entry in entries:
        for place in await store.places():
            step = partial(_mark, entry=entry, place=place)
            after: tuple[int, int] | None = (0, 0)
            quarantined = 0
            while after is not None:
                after, changed, quarantined = await store.change(
                    partial(step, after=after, quarantined=quarantined)
                )
                marked += changed
            if place.history is not None:
                await store.change(
                    partial(
                        sql.mark_current,
                        table=place.table,
                        product=place.product,
                        sealed=_sealed(entry),
                        mark=DISTRUSTED,
                    )
                )
    return marked


def _mark(
    connection: Connection,
    *,
    entry: Entry,
    place: Place,
    after: tuple[int, int],
    quarantined: int,
) -> tuple[tuple[int, int] | None, int, int]:
    """One transaction. Returns the last batch looked at (None: all were), and the counts."""
    batches = sql.batches_sealed(connection, place.product, _sealed(entry), after, MARKED_AT_ONCE)
    changed = 0
    for batch in batches:
        changed += _mark_batch(connection, place, batch)
        # What had no rows of its own may still have confirmed those of others.
        if batch["records"] and quarantined < QUARANTINED:
            quarantined += 1
            sql.insert_new(connection, "quarantine", _quarantined(entry, place.product, batch))
    full = len(batches) == MARKED_AT_ONCE
    return (batches[-1]["epoch"], batches[-1]["sequence"]) if full else None, changed, quarantined


def _mark_batch(connection: Connection, place: Place, batch: dict[str, Any]) -> bool:
    """Returns whether the batch had rows with another verdict."""
    first, last = batch["first_row"], batch["last_row"]
    if first is None:
        return False
    if place.in_files:
        return manifest.distrust(connection, place.product, batch)
    return sql.mark_rows(connection, place.log, first, last, DISTRUSTED) > 0


def _quarantined(entry: Entry, product: str, batch: dict[str, object]) -> dict[str, object]:
    """The batch as the quarantine has it. Its records are in the product's table; its bytes were not kept."""
    return {
        "product": product,
        "source": str(entry.spiffe_id),
        "epoch": batch["epoch"],
        "sequence": batch["sequence"],
        "log": batch["log"],
        "offset": batch["offset"],
        "reason": DISTRUSTED,
        "detail": f"{entry}; its rows were stored before that was said, and are marked",
        "signed": True,
        "header": b"",
        "signature": b"",
        "payload": b"",
        "payload_bytes": 0,
        "header_sha256": batch["header_sha256"],
        "received_time": batch["received_time"],
        "quarantined_time": time_text(datetime.now(UTC)),
    }


def _sealed(entry: Entry) -> sql.Sealed:
    """What an entry covers. What an old key sealed after a lift was never taken."""
    until = _NEVER if entry.until is None else time_text(entry.until)
    return sql.Sealed(str(entry.spiffe_id), time_text(entry.since), until)
