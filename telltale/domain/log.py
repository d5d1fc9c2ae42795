"""The product log: every batch of a domain, durable before it is acked, in the order of its arrival.

One SQLite file holds the logs of all products of a domain, so that one fsync serves them all.
Offsets grow over the whole file; within a product they increase and have gaps.
"""

import asyncio
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Self

import structlog
from opentelemetry import metrics

from telltale import salvage
from telltale.api.mesh.v1.batch_pb2 import Header
from telltale.api.mesh.v1.ingest_pb2 import ChainHead
from telltale.domain import chains, inventory, log_identity, needs, retention, rows
from telltale.domain.belief import BELIEVED, Belief
from telltale.domain.log_identity import LogIdentity
from telltale.domain.refusals import refusal, unknown_schema, unready
from telltale.domain.rows import COLUMNS, Entry, Found
from telltale.domain.tail import Tail
from telltale.errors import BatchRefused, Damaged, Unavailable
from telltale.identity.distrust import Distrust
from telltale.pages import Value
from telltale.seal.sealing import sha256
from telltale.sqlite import Database

_SCHEMA = (*rows.SCHEMA, *needs.SCHEMA, *chains.SCHEMA, *inventory.SCHEMA)
# A large batch lies on many pages, each of which costs calls of its own: with twice the default it takes a
# third less CPU. Larger still, a quiet log would write much more than it is told.
_PAGE_BYTES = 8192
# What is no larger is of a source that tells a little now and then: of a fleet, thousands share commits.
_MAY_WAIT_BYTES = 16 << 10
# Signers whose certificates stay in memory.
_MAX_SIGNERS = 4_096
# Offsets of damaged batches that were told of; of more, some are told of again.
_MAX_TOLD = 10_000
# Certificates stay for so long after the last batch that could need them: it may be on its way to a reader.
_GRACE_MS = 3_600_000

log = structlog.get_logger(__name__)
_METER = metrics.get_meter("telltale.domain")
_DAMAGED = _METER.create_counter(
    "telltale.log.damaged", unit="{batch}", description="Stored batches found not to hold any more."
)


@dataclass(frozen=True)
class Candidate:
    """A batch that was looked at: to be kept, or refused for good though it is the source's own.

    batch: bytes of a SealedBatch without delivery. signer: certificates in DER, leaf first.
    follows: sequence of the batch before it in its chain on the same stream, 0 for the first.
    """

    header: Header
    header_sha256: bytes
    batch: bytes
    signer: tuple[bytes, ...]
    change: inventory.Change | None = None
    refused: BatchRefused | None = None
    follows: int = 0


@dataclass(frozen=True)
class Extent:
    """What a product's log holds. Zero offsets: nothing yet."""

    earliest: int
    latest: int
    pruned_through: int


class ProductLog:
    """The logs of a domain's products in one file. Use as `async with`."""

    def __init__(self, path: Path, distrust: Distrust | None = None) -> None:
        """distrust: whose batches the current state of an inventory leaves out."""
        self._path = path
        self._belief = Belief(distrust or Distrust())
        self._database = Database(path, _SCHEMA, rows.upgrade, page_bytes=_PAGE_BYTES)
        self._identity = LogIdentity(path, self._database)
        self._tail = Tail()
        self._told: set[int] = set()
        self._signers: OrderedDict[str, tuple[bytes, ...]] = OrderedDict()
        self._arrivals: dict[str, asyncio.Event] = {}

    @property
    def id(self) -> str:
        return self._identity.id

    async def __aenter__(self) -> Self:
        """Recovers a file that is damaged. A log that lacks what it once handed out gets another id."""
        await salvage.open_or_recover(self._database, self._path, _SCHEMA, _mend)
        try:
            await self._identity.take_up()
        except BaseException as failed:
            await self._database.__aexit__(None, None, None)
            if isinstance(failed, Damaged):
                await asyncio.to_thread(salvage.mark, self._path)
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        try:
            await self._identity.close()
        finally:
            await self._database.__aexit__(None, None, None)

    async def watch(self) -> None:
        """Runs for ever, while the log is used; raises Damaged when its file is malformed.

        Who owns the log ends then: the next start recovers what can be read.
        """
        await self._identity.watch()

    def append(self, candidates: Sequence[Candidate]) -> "asyncio.Future[list[BatchRefused | None]]":
        """Keeps batches; the result comes when they are durable: None for each that is, or why it is not.

        Calls keep their order. A batch that is there already counts as kept. A caller that no longer
        waits changes nothing: the batches are kept and announced all the same.
        """
        reached = 0
        kept: list[tuple[str, Entry]] = []

        def change(db: sqlite3.Connection) -> list[BatchRefused | None]:
            nonlocal reached
            left = retention.room(db)
            outcomes = []
            for one in candidates:
                before = len(kept)
                outcomes.append(self._append_one(db, one, kept, left))
                left -= sum(len(entry.batch) for _, entry in kept[before:])
            reached = rows.last_offset(db)
            return outcomes

        def durable(done: "asyncio.Future[list[BatchRefused | None]]") -> None:
            if done.exception() is None:
                self._identity.reached = max(self._identity.reached, reached)
                for product, entry in kept:
                    self._tail.add(product, entry)
            self._announce({one.header.product for one in candidates})

        size = sum(len(one.batch) for one in candidates)
        future = self._database.submit(change, may_wait=size <= _MAY_WAIT_BYTES)
        future.add_done_callback(durable)
        return asyncio.shield(future)

    def arrival(self, product: str) -> asyncio.Event:
        """Set at the product's next arrival. Take it before looking, so that nothing falls in between."""
        return self._arrivals.setdefault(product, asyncio.Event())

    async def after(self, product: str, offset: int, max_bytes: int, max_batches: int = 1_000) -> list[Entry]:
        """The whole batches after an offset, oldest first; at least one when there is any."""
        while True:
            found = await self.look(product, offset, max_bytes, max_batches)
            if not found.damaged:
                return list(found.entries)
            offset = found.damaged[-1]

    async def look(self, product: str, offset: int, max_bytes: int, max_batches: int = 1_000) -> Found:
        """Like after, and tells where batches do not hold any more, and how far retention has passed."""
        recent = self._tail.after(product, offset, max_bytes, max_batches)
        if recent is not None:
            # Nothing, too, is known without the disk: whoever waits for the next batch asks after each.
            return await self._shown(product, Found(recent))

        def question(db: sqlite3.Connection) -> Found:
            selected = db.execute(
                f"SELECT {COLUMNS} FROM batches b WHERE product = ? AND offset > ? ORDER BY offset LIMIT ?",
                (product, offset, max_batches),
            )
            found = rows.signed(db, rows.read(self.id, selected, max_bytes), self._signers)
            selected.close()
            return replace(found, pruned_through=rows.pruned_through(db, product))

        return await self._shown(product, await self._database.read(question))

    async def state_after(
        self, product: str, offset: int, through: int, max_bytes: int, max_batches: int = 1_000
    ) -> Found:
        """Like look, up to an offset and only what makes an inventory's current state."""

        def question(db: sqlite3.Connection) -> Found:
            self._belief.teach(db)
            selected = db.execute(
                f"SELECT {COLUMNS} FROM batches b"
                " LEFT JOIN snapshots s ON s.product = b.product AND s.source = b.source"
                " WHERE b.product = ? AND b.offset > ? AND b.offset <= ?"
                # A snapshot that ended later replaced the one that counts at this offset; the batches
                # before it then say more than is needed, and never less.
                " AND (s.last_offset IS NULL OR s.last_offset > ? OR b.offset >= s.first_offset)"
                f" AND {BELIEVED.format(source='b.source', batch='b.batch')}"
                " ORDER BY b.offset LIMIT ?",
                (product, offset, through, through, max_batches),
            )
            found = rows.signed(db, rows.read(self.id, selected, max_bytes), self._signers)
            selected.close()
            return found

        return await self._shown(product, await self._database.read(question))

    async def extent(self, product: str) -> Extent:
        def question(db: sqlite3.Connection) -> Extent:
            earliest, latest = db.execute(
                "SELECT coalesce(min(offset), 0), coalesce(max(offset), 0) FROM batches WHERE product = ?",
                (product,),
            ).fetchone()
            pruned = rows.pruned_through(db, product)
            return Extent(earliest, max(latest, pruned), pruned)

        extent = await self._database.read(question)
        await self._identity.cover(extent.latest)
        return extent

    async def certificates_of(self, signer: str) -> tuple[bytes, ...]:
        """A signer's chain in DER, leaf first."""
        known = self._signers.get(signer)
        if known is None:
            known = await self._database.read(lambda db: rows.certificates_of(db, signer))
            if known:
                self._signers[signer] = known
            if len(self._signers) > _MAX_SIGNERS:
                self._signers.popitem(last=False)
        return known

    async def heads(self, source: str) -> list[ChainHead]:
        return await self._database.read(lambda db: chains.heads(db, source))

    async def add_schema(self, data: bytes) -> None:
        await self._database.write(
            lambda db: (
                db.execute("INSERT OR IGNORE INTO schemas VALUES (?, ?)", (sha256(data).hex(), data)).rowcount
            )
        )

    async def schemas(self) -> list[bytes]:
        return await self._database.write(rows.schemas)

    async def page(self, query: inventory.Query) -> inventory.Page:
        def question(db: sqlite3.Connection) -> inventory.Page:
            self._belief.teach(db)
            return inventory.page(db, query)

        return await self._database.read(question)

    async def prune(self, keep: Mapping[str, timedelta], max_bytes: int | None = None) -> int:
        """Deletes what is older than each product's retention, and the oldest of what exceeds `max_bytes`.

        What an inventory's state needs stays in any case.
        """
        deleted = 0
        now = time.time_ns() // 1_000_000
        for product, age in keep.items():
            cutoff = now - int(age.total_seconds() * 1_000)
            while step := await self._database.write(
                lambda db, product=product, cutoff=cutoff: retention.prune_older(db, product, cutoff)  # type: ignore[misc]
            ):
                deleted += step
        if max_bytes is not None:
            while step := await self._database.write(lambda db: retention.prune_largest(db, max_bytes)):
                deleted += step
        if deleted:
            self._tail.clear()
        await self._database.write(lambda db: inventory.forget_superseded(db, now))
        longest = max((int(age.total_seconds() * 1_000) for age in keep.values()), default=0)
        await self._forget_passed(now - longest - _GRACE_MS)
        return deleted

    async def _forget_passed(self, before_ms: int) -> None:
        source = ""
        while True:
            source = await self._database.write(
                lambda db, source=source: needs.forget_passed(db, before_ms, source)  # type: ignore[misc]
            )
            if not source:
                return

    async def forget_schemas(self, wanted: Sequence[bytes]) -> list[bytes]:
        """Forgets of these schemas those that no kept batch needs; returns them."""
        return await self._database.write(lambda db: needs.forget_schemas(db, wanted))

    async def bytes(self) -> int:
        """Of all batches that the log holds."""
        return await self._database.read(
            lambda db: int(db.execute("SELECT coalesce(sum(bytes), 0) FROM sizes").fetchone()[0])
        )

    async def _shown(self, product: str, found: Found) -> Found:
        new = [offset for offset in found.damaged if offset not in self._told]
        if new:
            log.error(
                "stored batches do not hold any more", product=product, offsets=new[:10], batches=len(new)
            )
            _DAMAGED.add(len(new), {"product": product})
            self._told.update(new[: _MAX_TOLD - len(self._told)])
        if found.entries:
            await self._identity.cover(found.entries[-1].offset)
        return found

    def _announce(self, products: set[str]) -> None:
        for product in products:
            if (arrival := self._arrivals.pop(product, None)) is not None:
                arrival.set()

    def _append_one(
        self, db: sqlite3.Connection, one: Candidate, kept: list[tuple[str, Entry]], left: int
    ) -> BatchRefused | None:
        header = one.header
        now = time.time_ns() // 1_000_000
        chain = chains.known(db, header)
        if one.follows and not chains.holds(chain, header, one.follows):
            return unready(header, one.follows)
        place = chains.place(db, chain, header, one.header_sha256, now)
        if place is chains.Place.DUPLICATE and one.refused is None:
            return None
        if one.refused is not None:
            if place is chains.Place.NEXT:
                chains.advance(db, chain, header, one.header_sha256, now, kept=False)
            return one.refused
        if place is not chains.Place.NEXT:
            return refusal(place, header)
        if not needs.has_schema(db, header.schema_sha256):
            return unknown_schema(header)
        if len(one.batch) > left:
            raise Unavailable(
                f"{self._path} takes no batch: its disk has only what retention needs to make room; check"
                " the disk's space and health"
            )
        chains.advance(db, chain, header, one.header_sha256, now, kept=True)
        signer = rows.keep_signer(db, one.signer)
        offset = rows.insert(db, header, one.header_sha256, signer, now, one.batch)
        needs.note(db, header, signer, offset, now)
        if one.change is not None:
            inventory.apply(db, header, offset, now, one.change)
        kept.append((header.product, rows.delivered(self.id, offset, now, one.batch, signer)))
        return None


def _mend(db: sqlite3.Connection, strays: Iterable[tuple[int, tuple[Value, ...]]]) -> None:
    """Of a log that was recovered: it may lack what was acked, and so is another log."""
    rows.adopt(db, strays)
    log_identity.forget(db)
    rows.count_bytes(db)
    chains.rebuild(db)
    needs.doubt(db)
