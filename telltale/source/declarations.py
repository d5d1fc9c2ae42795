"""What a chain's next header declares: batches that were given up, and records that never were in one."""

import sqlite3
from collections.abc import Iterable

from telltale.api.mesh.v1.batch_pb2 import Hole, Loss

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS holes (
        product TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        records INTEGER NOT NULL, reason INTEGER NOT NULL
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS losses (
        product TEXT NOT NULL, reason INTEGER NOT NULL, detail TEXT NOT NULL, records INTEGER NOT NULL,
        PRIMARY KEY (product, reason, detail)
    ) STRICT""",
)
# What one header declares must fit into it; what is more waits for the next one, or counts as one loss.
_MAX_HOLES = 500
_MAX_LOSSES = 64
_MAX_DETAIL = 200


def holes(db: sqlite3.Connection, product: str) -> tuple[Hole, ...]:
    rows = db.execute(
        "SELECT first, last, records, reason FROM holes WHERE product = ? ORDER BY first LIMIT ?",
        (product, _MAX_HOLES),
    )
    return tuple(
        Hole(first_sequence=first, last_sequence=last, records=records, reason=reason)
        for first, last, records, reason in rows
    )


def hole_ranges(db: sqlite3.Connection, product: str) -> list[tuple[int, int]]:
    """First and last sequence of all holes that wait to be declared."""
    return db.execute("SELECT first, last FROM holes WHERE product = ?", (product,)).fetchall()


def losses(db: sqlite3.Connection, product: str) -> tuple[Loss, ...]:
    rows = db.execute("SELECT records, reason, detail FROM losses WHERE product = ?", (product,))
    return tuple(Loss(records=records, reason=reason, detail=detail) for records, reason, detail in rows)


def add_hole(db: sqlite3.Connection, product: str, hole: Hole) -> None:
    """Remembers a hole. Neighbours merge, so that a long outage is one."""
    merged = db.execute(
        "UPDATE holes SET last = ?, records = records + ? WHERE product = ? AND last = ? AND reason = ?",
        (hole.last_sequence, hole.records, product, hole.first_sequence - 1, hole.reason),
    )
    if not merged.rowcount:
        db.execute(
            "INSERT INTO holes VALUES (?, ?, ?, ?, ?)",
            (product, hole.first_sequence, hole.last_sequence, hole.records, hole.reason),
        )


def add_loss(db: sqlite3.Connection, product: str, loss: Loss) -> None:
    (count,) = db.execute("SELECT count(*) FROM losses WHERE product = ?", (product,)).fetchone()
    detail = loss.detail[:_MAX_DETAIL] if count < _MAX_LOSSES else "and more"
    db.execute(
        "INSERT INTO losses (product, reason, detail, records) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET records = records + excluded.records",
        (product, loss.reason, detail, loss.records),
    )


def made(db: sqlite3.Connection, product: str, declared: Iterable[Hole]) -> None:
    """A header declares these holes and all losses: they wait no longer."""
    db.execute("DELETE FROM losses WHERE product = ?", (product,))
    db.executemany(
        "DELETE FROM holes WHERE product = ? AND first = ? AND last = ?",
        [(product, hole.first_sequence, hole.last_sequence) for hole in declared],
    )


def forget_holes(db: sqlite3.Connection, product: str) -> int:
    """Drops a product's holes and returns how many records they held."""
    lost = db.execute("SELECT coalesce(sum(records), 0) FROM holes WHERE product = ?", (product,)).fetchone()
    db.execute("DELETE FROM holes WHERE product = ?", (product,))
    return int(lost[0])
