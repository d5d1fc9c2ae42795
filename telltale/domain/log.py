"""The product log: every batch of a domain, durable before it is acked, in the order of its arrival.

One SQLite file holds the logs of all products of a domain, so that one fsync serves them all.
Offsets grow over the whole file; within a product they increase and have gaps.
"""

import asyncio
import json
import secrets
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from telltale.api.mesh.v1.batch_pb2 import Delivery, Header
from telltale.api.mesh.v1.ingest_pb2 import ChainHead, RefusalReason
from telltale.domain import chains, inventory
from telltale.errors import BatchRefused
from telltale.seal.sealing import sha256
from telltale.sqlite import Database
from telltale.wire import field

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    """CREATE TABLE IF NOT EXISTS batches (
        offset INTEGER PRIMARY KEY AUTOINCREMENT, product TEXT NOT NULL, source TEXT NOT NULL,
        epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, header_sha256 BLOB NOT NULL,
        signer TEXT NOT NULL, received_ms INTEGER NOT NULL, batch BLOB NOT NULL,
        UNIQUE (source, product, epoch, sequence)
    ) STRICT""",
    "CREATE INDEX IF NOT EXISTS batches_by_product ON batches (product, offset)",
    "CREATE INDEX IF NOT EXISTS batches_by_time ON batches (product, received_ms)",
    "CREATE TABLE IF NOT EXISTS certificates (sha256 TEXT PRIMARY KEY, der BLOB NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS signers (sha256 TEXT PRIMARY KEY, certificates TEXT NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS schemas (sha256 TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS pruned (product TEXT PRIMARY KEY, through INTEGER NOT NULL) STRICT",
    *chains.SCHEMA,
    *inventory.SCHEMA,
)
# Rows that one retention step deletes, so that appends wait only briefly.
_PRUNE_ROWS = 2_000
# Signers whose certificates stay in memory.
_MAX_SIGNERS = 4_096


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
class Entry:
    """A durable batch, as it is delivered. batch: bytes of a SealedBatch with delivery."""

    offset: int
    batch: bytes
    signer: str


@dataclass(frozen=True)
class Extent:
    """What a product's log holds. Zero offsets: nothing yet."""

    earliest: int
    latest: int
    pruned_through: int


class ProductLog:
    """The logs of a domain's products in one file. Use as `async with`."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _SCHEMA)
        self._signers: OrderedDict[str, tuple[bytes, ...]] = OrderedDict()
        self._arrivals: dict[str, asyncio.Event] = {}
        self.id = ""

    async def __aenter__(self) -> Self:
        await self._database.__aenter__()
        self.id = await self._database.write(_log_id)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._database.__aexit__(None, None, None)

    def append(self, candidates: Sequence[Candidate]) -> "asyncio.Future[list[BatchRefused | None]]":
        """Keeps batches; the result comes when they are durable: None for each that is, or why it is not.

        Calls keep their order. A batch that is there already counts as kept. A caller that no longer
        waits changes nothing: the batches are kept and announced all the same.
        """
        future = self._database.submit(lambda db: [self._append_one(db, one) for one in candidates])
        products = {one.header.product for one in candidates}
        future.add_done_callback(lambda _: self._announce(products))
        return asyncio.shield(future)

    def arrival(self, product: str) -> asyncio.Event:
        """Set at the product's next arrival. Take it before looking, so that nothing falls in between."""
        return self._arrivals.setdefault(product, asyncio.Event())

    async def after(self, product: str, offset: int, max_bytes: int, max_batches: int = 1_000) -> list[Entry]:
        """The batches after an offset, oldest first; at least one when there is any."""
        return (await self.look(product, offset, max_bytes, max_batches))[0]

    async def look(
        self, product: str, offset: int, max_bytes: int, max_batches: int = 1_000
    ) -> tuple[list[Entry], int]:
        """Like after, and through which offset retention had passed at that moment."""

        def question(db: sqlite3.Connection) -> tuple[list[Entry], int]:
            rows = db.execute(
                "SELECT offset, received_ms, signer, batch FROM batches"
                " WHERE product = ? AND offset > ? ORDER BY offset LIMIT ?",
                (product, offset, max_batches),
            )
            return self._entries(rows, max_bytes), _pruned_through(db, product)

        return await self._database.read(question)

    async def state_after(
        self, product: str, offset: int, through: int, max_bytes: int, max_batches: int = 1_000
    ) -> list[Entry]:
        """Like after, up to an offset and only what makes an inventory's current state."""
        return await self._database.read(
            lambda db: self._entries(
                db.execute(
                    "SELECT b.offset, b.received_ms, b.signer, b.batch FROM batches b"
                    " LEFT JOIN snapshots s ON s.product = b.product AND s.source = b.source"
                    " WHERE b.product = ? AND b.offset > ? AND b.offset <= ?"
                    # A snapshot that ended later replaced the one that counts at this offset; the batches
                    # before it then say more than is needed, and never less.
                    " AND (s.last_offset IS NULL OR s.last_offset > ? OR b.offset >= s.first_offset)"
                    " ORDER BY b.offset LIMIT ?",
                    (product, offset, through, through, max_batches),
                ),
                max_bytes,
            )
        )

    async def extent(self, product: str) -> Extent:
        def question(db: sqlite3.Connection) -> Extent:
            earliest, latest = db.execute(
                "SELECT coalesce(min(offset), 0), coalesce(max(offset), 0) FROM batches WHERE product = ?",
                (product,),
            ).fetchone()
            pruned = _pruned_through(db, product)
            return Extent(earliest, max(latest, pruned), pruned)

        return await self._database.read(question)

    async def certificates_of(self, signer: str) -> tuple[bytes, ...]:
        """A signer's chain in DER, leaf first."""
        known = self._signers.get(signer)
        if known is None:
            known = await self._database.read(lambda db: _certificates(db, signer))
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
        return await self._database.read(
            lambda db: [row[0] for row in db.execute("SELECT data FROM schemas ORDER BY rowid")]
        )

    async def page(self, query: inventory.Query) -> inventory.Page:
        return await self._database.read(lambda db: inventory.page(db, query))

    async def prune(self, keep: Mapping[str, timedelta]) -> int:
        """Deletes what is older than each product's retention, save what an inventory's state needs."""
        deleted = 0
        now = time.time_ns() // 1_000_000
        for product, retention in keep.items():
            cutoff = now - int(retention.total_seconds() * 1_000)
            while True:
                step = await self._database.write(
                    lambda db, product=product, cutoff=cutoff: _prune(db, product, cutoff)  # type: ignore[misc]
                )
                deleted += step
                if step < _PRUNE_ROWS:
                    break
        await self._database.write(lambda db: inventory.forget_superseded(db, now))
        return deleted

    def _announce(self, products: set[str]) -> None:
        for product in products:
            if (arrival := self._arrivals.pop(product, None)) is not None:
                arrival.set()

    def _append_one(self, db: sqlite3.Connection, one: Candidate) -> BatchRefused | None:
        header = one.header
        now = time.time_ns() // 1_000_000
        if one.follows and not chains.holds(db, header, one.follows):
            return _unready(header, one.follows)
        place = chains.place(db, header, one.header_sha256)
        if place is chains.Place.DUPLICATE and one.refused is None:
            return None
        if one.refused is not None:
            if place is chains.Place.NEXT:
                chains.advance(db, header, one.header_sha256, now, kept=False)
            return one.refused
        if place is not chains.Place.NEXT:
            return _REFUSALS[place](header)
        chains.advance(db, header, one.header_sha256, now, kept=True)
        signer = _keep_signer(db, one.signer)
        cursor = db.execute(
            "INSERT INTO batches (product, source, epoch, sequence, header_sha256, signer, received_ms,"
            " batch) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                header.product,
                header.source,
                header.epoch,
                header.sequence,
                one.header_sha256,
                signer,
                now,
                one.batch,
            ),
        )
        if one.change is not None:
            inventory.apply(db, header, cursor.lastrowid or 0, now, one.change)
        return None

    def _entries(self, rows: sqlite3.Cursor, max_bytes: int) -> list[Entry]:
        entries: list[Entry] = []
        size = 0
        for offset, received_ms, signer, batch in rows:
            size += len(batch)
            if entries and size > max_bytes:
                break
            delivery = Delivery(log=self.id, offset=offset)
            delivery.received_time.FromMilliseconds(received_ms)
            # Appending a field to the bytes is the same as setting it on the message.
            entries.append(Entry(offset, batch + field(4, delivery.SerializeToString()), signer))
        rows.close()
        return entries


def _fork(header: Header) -> BatchRefused:
    return BatchRefused(
        RefusalReason.REFUSAL_REASON_FORK,
        f"another batch holds sequence {header.sequence} of {header.source}'s chain for {header.product}:"
        " two hosts use one identity; enrol one of them anew",
    )


def _broken(header: Header) -> BatchRefused:
    return BatchRefused(
        RefusalReason.REFUSAL_REASON_BROKEN_CHAIN,
        f"sequence {header.sequence} comes after later ones of {header.product} that are stored already",
    )


def _unready(header: Header, before: int) -> BatchRefused:
    # Taken now, it would make the one before it a hole that nobody needs.
    return BatchRefused(
        RefusalReason.REFUSAL_REASON_UNAVAILABLE,
        f"sequence {before} of {header.product} was not taken yet; send both again, in order",
        final=False,
    )


def _stale(header: Header) -> BatchRefused:
    return BatchRefused(
        RefusalReason.REFUSAL_REASON_STALE_EPOCH,
        f"epoch {header.epoch} of {header.product} lies below a known one; ask Chains and start above it",
        final=False,
    )


def _contested(header: Header) -> BatchRefused:
    # Not final: nobody can tell which of the two holders is the right one, so the records of both are kept.
    return BatchRefused(
        RefusalReason.REFUSAL_REASON_FORK,
        f"{header.source} goes on with the chain {header.epoch} for {header.product} although a later one has"
        " begun: two hosts use one identity; enrol one of them anew",
        final=False,
    )


_REFUSALS = {
    chains.Place.FORK: _fork,
    chains.Place.TOO_LATE: _broken,
    chains.Place.STALE: _stale,
    chains.Place.CONTESTED: _contested,
    chains.Place.DUPLICATE: _broken,
}


def _log_id(db: sqlite3.Connection) -> str:
    db.execute("INSERT OR IGNORE INTO meta VALUES ('log', ?)", (secrets.token_hex(8),))
    return str(db.execute("SELECT value FROM meta WHERE name = 'log'").fetchone()[0])


def _pruned_through(db: sqlite3.Connection, product: str) -> int:
    row = db.execute("SELECT through FROM pruned WHERE product = ?", (product,)).fetchone()
    return row[0] if row else 0


def _keep_signer(db: sqlite3.Connection, certificates: Sequence[bytes]) -> str:
    names = [sha256(der).hex() for der in certificates]
    if not db.execute("SELECT 1 FROM signers WHERE sha256 = ?", (names[0],)).fetchone():
        db.executemany(
            "INSERT OR IGNORE INTO certificates VALUES (?, ?)", zip(names, certificates, strict=True)
        )
        db.execute("INSERT INTO signers VALUES (?, ?)", (names[0], json.dumps(names)))
    return names[0]


def _certificates(db: sqlite3.Connection, signer: str) -> tuple[bytes, ...]:
    row = db.execute("SELECT certificates FROM signers WHERE sha256 = ?", (signer,)).fetchone()
    names = json.loads(row[0]) if row else []
    return tuple(
        db.execute("SELECT der FROM certificates WHERE sha256 = ?", (name,)).fetchone()[0] for name in names
    )


def _prune(db: sqlite3.Connection, product: str, cutoff: int) -> int:
    rows = db.execute(
        "SELECT b.offset FROM batches b"
        " LEFT JOIN snapshots s ON s.product = b.product AND s.source = b.source"
        " WHERE b.product = ? AND b.received_ms < ?"
        " AND (s.first_offset IS NULL AND ? OR b.offset < s.first_offset)"
        " ORDER BY b.offset LIMIT ?",
        (product, cutoff, not inventory.is_kept(db, product), _PRUNE_ROWS),
    ).fetchall()
    if rows:
        db.executemany("DELETE FROM batches WHERE offset = ?", rows)
        db.execute(
            "INSERT INTO pruned VALUES (?, ?)"
            " ON CONFLICT DO UPDATE SET through = max(through, excluded.through)",
            (product, rows[-1][0]),
        )
    return len(rows)
