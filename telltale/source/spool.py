"""The spool: sealed batches on disk, bounded by bytes, kept until the domain service has them.

A chain's epoch, sequence and previous digest commit together with the batch and outlive its ack.
"""

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from telltale.api.mesh.v1.batch_pb2 import Hole, HoleReason, Loss, LossReason, SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import ChainHead, Refusal, RefusalReason
from telltale.seal.chain import Head
from telltale.seal.sealing import sha256
from telltale.sqlite import Database

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS chains (
        product TEXT PRIMARY KEY, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
        header_sha256 BLOB NOT NULL
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS batches (
        id INTEGER PRIMARY KEY AUTOINCREMENT, product TEXT NOT NULL, epoch INTEGER NOT NULL,
        sequence INTEGER NOT NULL, records INTEGER NOT NULL, sheddable INTEGER NOT NULL,
        batch BLOB NOT NULL, certificates TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX IF NOT EXISTS batches_by_chain ON batches (product, epoch, sequence)",
    """CREATE TABLE IF NOT EXISTS certificates (sha256 TEXT PRIMARY KEY, der BLOB NOT NULL) STRICT""",
    """CREATE TABLE IF NOT EXISTS holes (
        product TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        records INTEGER NOT NULL, reason INTEGER NOT NULL
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS losses (
        product TEXT NOT NULL, reason INTEGER NOT NULL, detail TEXT NOT NULL, records INTEGER NOT NULL,
        PRIMARY KEY (product, reason, detail)
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS refused (
        product TEXT NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, records INTEGER NOT NULL,
        reason TEXT NOT NULL, detail TEXT NOT NULL, time TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
    ) STRICT""",
)
# Refusals that `refused` remembers for people.
_MAX_REFUSED = 1000
# Rows beside a batch's own bytes.
_ROW_BYTES = 256


@dataclass(frozen=True)
class Draft:
    """What the spool gives whoever seals: the place in the chain, and what the header has to declare."""

    epoch: int
    sequence: int
    previous_header_sha256: bytes
    holes: tuple[Hole, ...] = ()
    losses: tuple[Loss, ...] = ()


@dataclass(frozen=True)
class Sealed:
    """A batch ready for the spool. `certificates`: the signer's chain in DER."""

    batch: SealedBatch
    records: int
    certificates: tuple[bytes, ...]


@dataclass(frozen=True)
class Spooled:
    """A batch on disk that is not acked yet. `batch`: bytes of a SealedBatch."""

    id: int
    product: str
    epoch: int
    sequence: int
    batch: bytes
    certificates: tuple[bytes, ...]


@dataclass(frozen=True)
class Usage:
    """How full the spool is."""

    batches: int
    bytes: int
    limit_bytes: int
    pending_holes: int


Sealer = Callable[[Draft], Sealed]
Resealer = Callable[[Draft, SealedBatch], Sealed]


class SpoolFull(Exception):
    """The batch does not fit, and nothing that may be shed would make room."""


class Spool:
    """The batches of one source on disk. Use as `async with`; one process at a time."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._database = Database(path, _SCHEMA)
        self._max_bytes = max_bytes
        self._bytes = 0
        self._in_flight = 0
        self.shed_batches = 0

    async def __aenter__(self) -> Self:
        await self._database.__aenter__()
        self._bytes = await self._database.read(
            lambda db: int(
                db.execute(f"SELECT coalesce(sum(length(batch) + {_ROW_BYTES}), 0) FROM batches").fetchone()[
                    0
                ]
            )
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._database.__aexit__(None, None, None)

    async def append(
        self, product: str, epoch: int, seals: Sequence[Sealer], *, sheddable: bool
    ) -> tuple[int, int]:
        """Seals and keeps batches in one commit, one after the other in the product's chain.

        `epoch` is used when the product has no chain yet. Returns the numbers of batches that were shed
        for them and holes that they declare. Raises SpoolFull, and keeps none, when they do not fit.
        """

        def change(db: sqlite3.Connection) -> tuple[int, int]:
            before = self._bytes, self.shed_batches
            try:
                declared = 0
                for seal in seals:
                    declared += self._append_one(db, product, epoch, seal, sheddable)
            except BaseException:
                self._bytes, self.shed_batches = before
                raise
            return self.shed_batches - before[1], declared

        return await self._database.write(change)

    async def lose(self, product: str, loss: Loss) -> None:
        """Remembers records that could not be kept, until the product's next batch declares them."""
        await self._database.write(lambda db: _add_loss(db, product, loss))

    async def after(self, last_id: int, max_bytes: int, max_batches: int) -> list[Spooled]:
        """The next batches that are not acked, oldest first: at least one if there is any."""

        def question(db: sqlite3.Connection) -> list[Spooled]:
            found: list[Spooled] = []
            size = 0
            rows = db.execute(
                "SELECT id, product, epoch, sequence, batch, certificates FROM batches"
                " WHERE id > ? ORDER BY id LIMIT ?",
                (last_id, max_batches),
            )
            for identifier, product, epoch, sequence, batch, names in rows:
                size += len(batch)
                if found and size > max_bytes:
                    break
                found.append(
                    Spooled(identifier, product, epoch, sequence, batch, _certificates(db, json.loads(names)))
                )
            return found

        return await self._database.read(question)

    def mark_in_flight(self, last_id: int) -> None:
        """Batches up to this one are on their way and are not shed; 0 when nothing is."""
        self._in_flight = last_id

    async def forget(self, identifiers: Sequence[int]) -> None:
        """Drops acked batches."""
        await self._database.write(lambda db: self._drop(db, identifiers))

    async def refuse(self, spooled: Spooled, refusal: Refusal) -> None:
        """Gives a batch up that the domain refused for good, and declares the hole with the next batch."""

        def change(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT records FROM batches WHERE id = ?", (spooled.id,)).fetchone()
            if row is None:
                return
            self._give_up(
                db, spooled.id, spooled.product, spooled.sequence, row[0], HoleReason.HOLE_REASON_REFUSED
            )
            db.execute(
                "INSERT INTO refused (product, epoch, sequence, records, reason, detail)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    spooled.product,
                    spooled.epoch,
                    spooled.sequence,
                    row[0],
                    RefusalReason.Name(refusal.reason),
                    refusal.detail[:500],
                ),
            )
            db.execute(
                "DELETE FROM refused WHERE rowid <= (SELECT max(rowid) FROM refused) - ?", (_MAX_REFUSED,)
            )

        await self._database.write(change)

    async def rechain(self, known: Sequence[ChainHead], epoch: int, reseal: Resealer) -> list[str]:
        """Starts chains anew that lie behind what the domain knows, and seals their batches again.

        This happens when the spool was lost, restored from a copy, or made under a clock in the past.
        Returns the products whose chains were started anew.
        """

        def change(db: sqlite3.Connection) -> list[str]:
            renewed = []
            for head in known:
                mine = _head(db, head.product)
                if mine is None:
                    next_epoch = max(epoch, head.epoch + 1)
                elif (mine.epoch, mine.sequence) < (head.epoch, head.sequence):
                    next_epoch = max(epoch, head.epoch + 1)
                else:
                    continue
                self._reseal(db, head.product, next_epoch, reseal)
                renewed.append(head.product)
            return renewed

        return await self._database.write(change)

    async def usage(self) -> Usage:
        def question(db: sqlite3.Connection) -> Usage:
            batches = db.execute("SELECT count(*) FROM batches").fetchone()[0]
            holes = db.execute("SELECT count(*) FROM holes").fetchone()[0]
            return Usage(batches, self._bytes, self._max_bytes, holes)

        return await self._database.read(question)

    def _append_one(
        self, db: sqlite3.Connection, product: str, epoch: int, seal: Sealer, sheddable: bool
    ) -> int:
        head = _head(db, product) or Head(epoch, 0, b"")
        holes = _holes(db, product)
        losses = _losses(db, product)
        sealed = seal(Draft(head.epoch, head.sequence + 1, head.header_sha256, holes, losses))
        encoded = sealed.batch.SerializeToString()
        self._make_room(db, len(encoded) + _ROW_BYTES)
        _set_head(db, product, Head(head.epoch, head.sequence + 1, sha256(sealed.batch.header)))
        self._keep(db, product, head.epoch, head.sequence + 1, sealed, encoded, sheddable)
        db.execute("DELETE FROM losses WHERE product = ?", (product,))
        # Holes that shedding for this very batch made wait for the next one.
        for hole in holes:
            db.execute(
                "DELETE FROM holes WHERE product = ? AND first = ? AND last = ?",
                (product, hole.first_sequence, hole.last_sequence),
            )
        return len(holes)

    def _keep(
        self,
        db: sqlite3.Connection,
        product: str,
        epoch: int,
        sequence: int,
        sealed: Sealed,
        encoded: bytes,
        sheddable: bool,
    ) -> None:
        names = [sha256(der).hex() for der in sealed.certificates]
        db.executemany(
            "INSERT OR IGNORE INTO certificates VALUES (?, ?)",
            zip(names, sealed.certificates, strict=True),
        )
        db.execute(
            "INSERT INTO batches (product, epoch, sequence, records, sheddable, batch, certificates)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (product, epoch, sequence, sealed.records, int(sheddable), encoded, json.dumps(names)),
        )
        self._bytes += len(encoded) + _ROW_BYTES

    def _make_room(self, db: sqlite3.Connection, wanted: int) -> None:
        while self._bytes + wanted > self._max_bytes:
            row = db.execute(
                "SELECT id, product, sequence, records FROM batches WHERE sheddable AND id > ?"
                " ORDER BY id LIMIT 1",
                (self._in_flight,),
            ).fetchone()
            if row is None:
                raise SpoolFull
            identifier, product, sequence, records = row
            self._give_up(db, identifier, product, sequence, records, HoleReason.HOLE_REASON_SHED)
            self.shed_batches += 1

    def _give_up(
        self,
        db: sqlite3.Connection,
        identifier: int,
        product: str,
        sequence: int,
        records: int,
        reason: HoleReason,
    ) -> None:
        self._drop(db, [identifier])
        # Neighbours merge, so that a long outage is one hole.
        merged = db.execute(
            "UPDATE holes SET last = ?, records = records + ? WHERE product = ? AND last = ? AND reason = ?",
            (sequence, records, product, sequence - 1, reason),
        )
        if not merged.rowcount:
            db.execute(
                "INSERT INTO holes VALUES (?, ?, ?, ?, ?)", (product, sequence, sequence, records, reason)
            )

    def _drop(self, db: sqlite3.Connection, identifiers: Sequence[int]) -> None:
        for identifier in identifiers:
            row = db.execute("SELECT length(batch) FROM batches WHERE id = ?", (identifier,)).fetchone()
            if row is not None:
                db.execute("DELETE FROM batches WHERE id = ?", (identifier,))
                self._bytes -= row[0] + _ROW_BYTES

    def _reseal(self, db: sqlite3.Connection, product: str, epoch: int, reseal: Resealer) -> None:
        rows = db.execute(
            "SELECT id, batch, sheddable FROM batches WHERE product = ? ORDER BY id", (product,)
        ).fetchall()
        # The new chain starts at 1 and cannot name holes of the old one; their records are declared as lost.
        lost = db.execute("SELECT coalesce(sum(records), 0) FROM holes WHERE product = ?", (product,))
        if records := lost.fetchone()[0]:
            detail = "batches were given up before the chain began anew"
            loss = Loss(records=records, reason=LossReason.LOSS_REASON_BOUND, detail=detail)
            _add_loss(db, product, loss)
        db.execute("DELETE FROM holes WHERE product = ?", (product,))
        head = Head(epoch, 0, b"")
        for identifier, encoded, sheddable in rows:
            draft = Draft(epoch, head.sequence + 1, head.header_sha256)
            sealed = reseal(draft, SealedBatch.FromString(encoded))
            self._drop(db, [identifier])
            renewed = sealed.batch.SerializeToString()
            self._keep(db, product, epoch, head.sequence + 1, sealed, renewed, bool(sheddable))
            head = Head(epoch, head.sequence + 1, sha256(sealed.batch.header))
        _set_head(db, product, head)


def _head(db: sqlite3.Connection, product: str) -> Head | None:
    row = db.execute(
        "SELECT epoch, sequence, header_sha256 FROM chains WHERE product = ?", (product,)
    ).fetchone()
    return Head(*row) if row else None


def _set_head(db: sqlite3.Connection, product: str, head: Head) -> None:
    db.execute(
        "INSERT OR REPLACE INTO chains VALUES (?, ?, ?, ?)",
        (product, head.epoch, head.sequence, head.header_sha256),
    )


def _holes(db: sqlite3.Connection, product: str) -> tuple[Hole, ...]:
    rows = db.execute(
        "SELECT first, last, records, reason FROM holes WHERE product = ? ORDER BY first LIMIT 1000",
        (product,),
    )
    return tuple(
        Hole(first_sequence=first, last_sequence=last, records=records, reason=reason)
        for first, last, records, reason in rows
    )


def _losses(db: sqlite3.Connection, product: str) -> tuple[Loss, ...]:
    rows = db.execute("SELECT records, reason, detail FROM losses WHERE product = ?", (product,))
    return tuple(Loss(records=records, reason=reason, detail=detail) for records, reason, detail in rows)


def _add_loss(db: sqlite3.Connection, product: str, loss: Loss) -> None:
    db.execute(
        "INSERT INTO losses (product, reason, detail, records) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET records = records + excluded.records",
        (product, loss.reason, loss.detail, loss.records),
    )


def _certificates(db: sqlite3.Connection, names: Sequence[str]) -> tuple[bytes, ...]:
    found = []
    for name in names:
        row = db.execute("SELECT der FROM certificates WHERE sha256 = ?", (name,)).fetchone()
        if row is not None:
            found.append(row[0])
    return tuple(found)
