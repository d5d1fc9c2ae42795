"""The spool: sealed batches on disk, bounded by bytes, kept until the domain service has them.

A chain's epoch, sequence and previous digest commit together with the batch and outlive its ack.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self, TypeVar

import structlog
from google.protobuf.message import DecodeError

from telltale.api.mesh.v1.batch_pb2 import Header, Hole, HoleReason, Loss
from telltale.api.mesh.v1.ingest_pb2 import ChainHead, Refusal, RefusalReason
from telltale.errors import Damaged, Unavailable
from telltale.salvage import mark, open_or_recover
from telltale.seal.chain import Head
from telltale.seal.sealing import sha256
from telltale.seal.verify import MAX_FUTURE
from telltale.source import declarations, resealing, rows
from telltale.source.drafts import Draft, Resealer, Sealer
from telltale.source.rows import Spooled
from telltale.sqlite import Database

log = structlog.get_logger(__name__)

# Refusals that `refused` remembers for people.
_MAX_REFUSED = 1000
_MAX_AHEAD_MS = MAX_FUTURE // timedelta(milliseconds=1)


@dataclass(frozen=True)
class Usage:
    """How full the spool is."""

    batches: int
    bytes: int
    limit_bytes: int
    pending_holes: int


_T = TypeVar("_T")


class SpoolFull(Exception):
    """The batch does not fit, and nothing that may be shed would make room."""


class Spool:
    """The batches of one source on disk. Use as `async with`; one process at a time."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._database = Database(path, rows.SCHEMA, rows.upgrade)
        self._max_bytes = max_bytes
        self._bytes = 0
        self._in_flight = 0

    async def __aenter__(self) -> Self:
        """Recovers what can be read of a damaged file; what it may lack is declared with the next batches."""
        await open_or_recover(self._database, self._path, rows.SCHEMA, rows.declare_missing)
        try:
            self._bytes = await self._database.read(rows.count_bytes)
        except BaseException as failed:
            await self._database.__aexit__(None, None, None)
            if isinstance(failed, Damaged):
                await asyncio.to_thread(mark, self._path)
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._database.__aexit__(None, None, None)

    async def watch(self) -> None:
        """Raises Damaged once the file is malformed: its owner ends, and recovers it at its next start."""
        await self._database.damaged.wait()
        await asyncio.to_thread(mark, self._path)
        raise Damaged(f"{self._path} is malformed; it is recovered at the next start")

    async def append(
        self,
        product: str,
        epoch: int,
        seals: Sequence[Sealer],
        *,
        sheddable: bool,
        losses: Sequence[Loss] = (),
    ) -> tuple[int, int]:
        """Seals and keeps batches in one commit, one after the other in the product's chain.

        `epoch` is used when the product has no chain yet; the first batch declares `losses`. Returns the
        numbers of batches that were shed for them and holes that they declare. Raises SpoolFull, and
        keeps none, when they do not fit.
        """

        def change(db: sqlite3.Connection) -> tuple[int, int]:
            shed = declared = 0
            for loss in losses:
                declarations.add_loss(db, product, loss)
            for seal in seals:
                counts = self._append_one(db, product, epoch, seal, sheddable)
                shed, declared = shed + counts[0], declared + counts[1]
            return shed, declared

        return await self._write(change)

    async def lose(self, product: str, loss: Loss) -> None:
        """Remembers records that could not be kept, until the product's next batch declares them."""
        await self._write(lambda db: declarations.add_loss(db, product, loss))

    async def take(
        self, last_id: int, max_bytes: int, max_batches: int, without: frozenset[str] = frozenset()
    ) -> list[Spooled]:
        """Like after, for sending: what it returns, and all before it, is not shed until `release`."""

        def change(db: sqlite3.Connection) -> list[Spooled]:
            # In the writing thread, so that nothing is shed between looking and marking.
            found = rows.after(db, last_id, max_bytes, max_batches, without)
            while damaged := [one for one in found if one.damaged]:
                for product in {one.product for one in damaged}:
                    self._give_up_damaged(db, product)
                found = rows.after(db, last_id, max_bytes, max_batches, without)
            if found:
                self._in_flight = found[-1].id
            return found

        return await self._write(change)

    def release(self) -> None:
        """Nothing is on its way any more."""
        self._in_flight = 0

    async def after(self, last_id: int, max_bytes: int, max_batches: int) -> list[Spooled]:
        """The next batches that are not acked, oldest first: at least one if there is any."""
        return await self._database.read(
            lambda db: rows.after(db, last_id, max_bytes, max_batches, frozenset())
        )

    async def forget(self, identifiers: Sequence[int]) -> None:
        """Drops acked batches."""
        await self._write(lambda db: self._drop(db, identifiers))

    async def refuse(self, spooled: Spooled, refusal: Refusal) -> None:
        """Gives a batch up that the domain refused for good, and declares the hole with the next batch."""

        def change(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT records FROM batches WHERE id = ?", (spooled.id,)).fetchone()
            if row is None:
                return
            self._give_up(db, spooled.id, HoleReason.HOLE_REASON_REFUSED)
            db.execute(
                "INSERT INTO refused (product, epoch, sequence, records, reason, detail)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    spooled.product,
                    spooled.epoch,
                    spooled.sequence,
                    row[0],
                    reason_name(refusal),
                    refusal.detail[:500],
                ),
            )
            db.execute(
                "DELETE FROM refused WHERE rowid <= (SELECT max(rowid) FROM refused) - ?", (_MAX_REFUSED,)
            )

        await self._write(change)

    async def rechain(self, known: Sequence[ChainHead], epoch: int, reseal: Resealer) -> list[str]:
        """Starts chains anew that lie behind or beside what the domain knows, and seals their batches again.

        This happens when the spool was lost, restored from a copy, or made under a clock in the past.
        Returns the products whose chains were started anew.
        """

        def change(db: sqlite3.Connection) -> list[str]:
            renewed = []
            for head in known:
                mine = rows.head(db, head.product)
                if mine is None:
                    next_epoch = max(epoch, head.epoch + 1)
                elif (mine.epoch, mine.sequence) < (head.epoch, head.sequence) or rows.left(db, head):
                    next_epoch = max(epoch, head.epoch + 1)
                else:
                    continue
                self._give_up_damaged(db, head.product)
                self._bytes += resealing.anew(db, head.product, next_epoch, reseal)
                renewed.append(head.product)
            return renewed

        return await self._write(change)

    async def reseal_late(self, known: Sequence[ChainHead], epoch: int, reseal: Resealer) -> list[str]:
        """Seals again, each in its place, what was sealed when its certificate was not valid.

        Nobody can have taken such a batch, nor what was sealed after it in its chain. Where the domain has
        refused it, its place in the chain is gone, and the chain starts anew. Call it while nothing is on its
        way. Returns the products.
        """
        heads = {head.product: (head.epoch, head.sequence) for head in known}

        def change(db: sqlite3.Connection) -> list[str]:
            products = []
            for product, first in rows.late(db):
                place, refused = rows.place(db, first), heads.get(product, (0, 0))
                self._give_up_damaged(db, product)
                if place <= refused:
                    self._renew(db, product, epoch, refused[0], reseal)
                else:
                    self._bytes += resealing.in_place(db, product, first, reseal)
                products.append(product)
            return products

        return await self._write(change)

    async def renew(self, product: str, epoch: int, known_epoch: int, reseal: Resealer) -> None:
        """Starts a product's chain anew, and seals its batches again.

        It begins above its present epoch; or above the one that the domain knows, where the present one lies
        so far ahead of `epoch`, the time in Unix milliseconds, that no domain has taken it.
        """

        await self._write(lambda db: self._renew(db, product, epoch, known_epoch, reseal))

    async def is_late(self, identifier: int) -> bool:
        """Whether a batch was sealed when its signer's certificate was not valid."""
        return await self._database.read(lambda db: rows.is_late(db, identifier))

    async def sealed_time(self, identifier: int) -> float | None:
        """Unix time at which a batch was sealed; None when it is gone or damaged."""

        def question(db: sqlite3.Connection) -> float | None:
            row = db.execute("SELECT batch FROM batches WHERE id = ?", (identifier,)).fetchone()
            with contextlib.suppress(DecodeError):
                return rows.header_of(row[0]).sealed_time.ToNanoseconds() / 1e9 if row is not None else None
            return None

        return await self._database.read(question)

    async def usage(self) -> Usage:
        def question(db: sqlite3.Connection) -> Usage:
            batches = db.execute("SELECT count(*) FROM batches").fetchone()[0]
            holes = db.execute("SELECT count(*) FROM holes").fetchone()[0]
            return Usage(batches, self._bytes, self._max_bytes, holes)

        return await self._database.read(question)

    async def _write(self, change: Callable[[sqlite3.Connection], _T]) -> _T:
        """Writes, and keeps the count of bytes true when what was written is gone again."""

        def counted(db: sqlite3.Connection) -> _T:
            before = self._bytes
            try:
                return change(db)
            except BaseException:
                self._bytes = before
                raise

        def recount(db: sqlite3.Connection) -> None:
            self._bytes = rows.count_bytes(db)

        try:
            return await self._database.write(counted)
        except Unavailable:
            # A whole group of changes is gone. In the writing thread, in turn with the changes that count.
            with contextlib.suppress(Unavailable):
                await self._database.write(recount)
            raise

    def _append_one(
        self, db: sqlite3.Connection, product: str, epoch: int, seal: Sealer, sheddable: bool
    ) -> tuple[int, int]:
        """How many batches were shed for one more, and how many holes it declares."""
        head = rows.head(db, product) or Head(epoch, 0, b"")
        shed = 0
        while True:
            holes = declarations.holes(db, product)
            losses = declarations.losses(db, product)
            sealed = seal(Draft(head.epoch, head.sequence + 1, head.header_sha256, holes, losses))
            encoded = sealed.batch.SerializeToString()
            made = self._make_room(db, len(encoded) + rows.ROW_BYTES)
            if not made:
                break
            # What was shed may be of this very chain: sealed again, this batch declares it.
            shed += made
        rows.set_head(db, product, Head(head.epoch, head.sequence + 1, sha256(sealed.batch.header)))
        row = (product, head.epoch, head.sequence + 1, sealed.records, int(sheddable), encoded)
        self._bytes += rows.insert(db, row, sealed.certificates, late=sealed.late)
        declarations.made(db, product, holes)
        return shed, len(holes)

    def _make_room(self, db: sqlite3.Connection, wanted: int) -> int:
        """Sheds what it must, oldest first, and returns how many batches that were."""
        shed = 0
        while self._bytes + wanted > self._max_bytes:
            row = db.execute(
                "SELECT id FROM batches WHERE sheddable AND id > ? ORDER BY id LIMIT 1", (self._in_flight,)
            ).fetchone()
            if row is None:
                raise SpoolFull
            self._give_up(db, row[0], HoleReason.HOLE_REASON_SHED)
            shed += 1
        return shed

    def _give_up(self, db: sqlite3.Connection, identifier: int, reason: HoleReason) -> None:
        """Drops a batch, to be declared later: itself, and whatever it would have declared."""
        product, sequence, records, encoded = db.execute(
            "SELECT product, sequence, records, batch FROM batches WHERE id = ?", (identifier,)
        ).fetchone()
        try:
            header = rows.header_of(encoded)
        except DecodeError:
            # Damaged. What it would have declared is lost with it, and missing in its chain.
            header = Header()
        self._drop(db, [identifier])
        for hole in header.holes:
            declarations.add_hole(db, product, hole)
        for loss in header.losses:
            declarations.add_loss(db, product, loss)
        own = Hole(first_sequence=sequence, last_sequence=sequence, records=records, reason=reason)
        declarations.add_hole(db, product, own)

    def _give_up_damaged(self, db: sqlite3.Connection, product: str) -> None:
        for identifier in rows.damaged(db, product):
            log.error("a batch in the spool is damaged and given up", product=product, file=str(self._path))
            self._give_up(db, identifier, HoleReason.HOLE_REASON_DAMAGED)

    def _drop(self, db: sqlite3.Connection, identifiers: Sequence[int]) -> None:
        for identifier in identifiers:
            self._bytes -= rows.delete(db, identifier)

    def _renew(
        self, db: sqlite3.Connection, product: str, epoch: int, known_epoch: int, reseal: Resealer
    ) -> None:
        mine = rows.head(db, product)
        if mine is not None:
            self._give_up_damaged(db, product)
            before = known_epoch if is_ahead(mine.epoch, epoch) else mine.epoch
            self._bytes += resealing.anew(db, product, max(epoch, before + 1), reseal)


def is_ahead(epoch: int, now_ms: int) -> bool:
    """Whether a chain began so far ahead of a clock that a domain with the same clock refuses it."""
    return epoch > now_ms + _MAX_AHEAD_MS


def reason_name(refusal: Refusal) -> str:
    """The reason as the contract names it; its number when a newer or hostile service gives another."""
    known = refusal.reason in RefusalReason.values()
    return RefusalReason.Name(refusal.reason) if known else f"REFUSAL_REASON_{refusal.reason:d}"
