"""The spool: sealed batches on disk, bounded by bytes, kept until the domain service has them.

A chain's epoch, sequence and previous digest commit together with the batch and outlive its ack.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog
from google.protobuf.message import DecodeError

from telltale.api.mesh.v1.batch_pb2 import HoleReason, Loss
from telltale.api.mesh.v1.ingest_pb2 import ChainHead, Refusal, RefusalReason
from telltale.errors import Damaged
from telltale.salvage import mark, open_or_recover
from telltale.source import declarations, keeping, resealing, rows, waiting
from telltale.source.drafts import Resealer, Sealer
from telltale.source.mark import Mark, MarkFile, declare_lost
from telltale.source.rows import Spooled
from telltale.sqlite import Database, bound

log = structlog.get_logger(__name__)

# Refusals that `refused` remembers for people.
_MAX_REFUSED = 1000


@dataclass(frozen=True)
class Usage:
    """How full the spool is. limit_bytes: as set, or what its disk has for it."""

    batches: int
    bytes: int
    limit_bytes: int
    pending_holes: int


class Spool:
    """The batches of one source on disk. Use as `async with`; one process at a time."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._database = Database(path, rows.SCHEMA, rows.prepare, committed=self._note)
        self._mark = MarkFile(path.with_suffix(".mark"))
        self._max_bytes = max_bytes
        # Set in the writing thread: as of the last commit, and as of the last batch that was to be kept.
        self._bytes = 0
        self._bound = max_bytes
        self._in_flight = 0

    async def __aenter__(self) -> Self:
        """Recovers what can be read of a damaged file; what it may lack is declared with the next batches."""
        await open_or_recover(self._database, self._path, rows.SCHEMA, keeping.declare_missing)
        try:
            left = await asyncio.to_thread(self._mark.open)
            missing = await self._database.write(lambda db: declare_lost(db, left) if left else [])
        except BaseException as failed:
            await self.__aexit__()
            if isinstance(failed, Damaged):
                await asyncio.to_thread(mark, self._path)
            raise
        for one in missing:
            log.error(
                "the spool's file lost what was kept in it; it is declared",
                file=str(self._path),
                product=one.product,
                batches=one.batches,
                records=one.records,
            )
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._database.__aexit__(None, None, None)
        self._mark.close()

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
                counts = keeping.append(
                    db,
                    product,
                    epoch,
                    seal,
                    sheddable=sheddable,
                    max_bytes=self._bound_now(db),
                    in_flight=self._in_flight,
                )
                shed, declared = shed + counts[0], declared + counts[1]
            return shed, declared

        return await self._database.write(change)

    async def lose(self, product: str, loss: Loss) -> None:
        """Remembers records that could not be kept, until the product's next batch declares them."""
        await self._database.write(lambda db: declarations.add_loss(db, product, loss))

    async def take(
        self, last_id: int, max_bytes: int, max_batches: int, without: frozenset[str] = frozenset()
    ) -> list[Spooled]:
        """Like after, for sending: what it returns, and all before it, is not shed until `release`."""

        def change(db: sqlite3.Connection) -> list[Spooled]:
            # In the writing thread, so that nothing is shed between looking and marking.
            found = rows.after(db, last_id, max_bytes, max_batches, without)
            while damaged := [one.id for one in found if one.damaged]:
                keeping.give_up_damaged(db, damaged)
                found = rows.after(db, last_id, max_bytes, max_batches, without)
            if found:
                self._in_flight = found[-1].id
            return found

        return await self._database.write(change)

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
        await self._database.write(lambda db: rows.delete(db, identifiers))

    async def refuse(self, spooled: Spooled, refusal: Refusal) -> None:
        """Gives a batch up that the domain refused for good, and declares the hole with the next batch."""

        def change(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT records FROM batches WHERE id = ?", (spooled.id,)).fetchone()
            if row is None:
                return
            keeping.give_up(db, spooled.id, HoleReason.HOLE_REASON_REFUSED)
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

        await self._database.write(change)

    async def rechain(self, known: Sequence[ChainHead], epoch: int, reseal: Resealer) -> list[str]:
        """Starts chains anew that lie behind or beside what the domain knows, and seals their batches again.

        This happens when the spool was lost, restored from a copy, or made under a clock in the past. So do
        those that have lost what had no ack. Returns the products whose chains were started anew.
        """
        return await self._database.write(lambda db: keeping.rechain(db, known, epoch, reseal))

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
                keeping.give_up_damaged(db, rows.damaged(db, product))
                if place <= refused:
                    keeping.renew(db, product, epoch, refused[0], reseal)
                else:
                    resealing.in_place(db, product, first, reseal)
                products.append(product)
            return products

        return await self._database.write(change)

    async def renew(self, product: str, epoch: int, known_epoch: int, reseal: Resealer) -> None:
        """Starts a product's chain anew, and seals its batches again.

        It begins above its present epoch; or above the one that the domain knows, where the present one lies
        so far ahead of `epoch`, the time in Unix milliseconds, that no domain has taken it.
        """

        await self._database.write(lambda db: keeping.renew(db, product, epoch, known_epoch, reseal))

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
            return Usage(batches, self._bytes, self._bound, holes)

        return await self._database.read(question)

    def _bound_now(self, db: sqlite3.Connection) -> int:
        """The bound that was set, or what the disk has for it while acks can still be taken."""
        self._bound = bound(db, self._max_bytes, waiting.total_bytes(db))
        return self._bound

    def _note(self, db: sqlite3.Connection) -> None:
        """Runs after each commit, in the writing thread."""
        self._bytes = waiting.total_bytes(db)
        self._mark.write(Mark.of(db))


def reason_name(refusal: Refusal) -> str:
    """The reason as the contract names it; its number when a newer or hostile service gives another."""
    known = refusal.reason in RefusalReason.values()
    return RefusalReason.Name(refusal.reason) if known else f"REFUSAL_REASON_{refusal.reason:d}"
