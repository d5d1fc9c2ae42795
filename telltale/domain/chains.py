"""What a domain remembers of every chain, whatever retention says: the head, and what never arrived."""

import json
import sqlite3
from enum import Enum

from telltale.api.mesh.v1.batch_pb2 import Header
from telltale.api.mesh.v1.ingest_pb2 import ChainHead
from telltale.seal.chain import Head, Link, covers, follow, missing_before

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS chains (
        source TEXT NOT NULL, product TEXT NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
        header_sha256 BLOB NOT NULL, missing TEXT NOT NULL, received_ms INTEGER NOT NULL,
        PRIMARY KEY (source, product)
    ) STRICT""",
)
# Ranges of a chain that never arrived; the oldest are forgotten first.
_MAX_MISSING = 256


class Place(Enum):
    """Where a batch belongs in a domain's memory of its chain."""

    NEXT = "next"
    DUPLICATE = "duplicate"
    FORK = "fork"
    STALE = "stale"
    TOO_LATE = "too late"


def place(db: sqlite3.Connection, header: Header, header_sha256: bytes) -> Place:
    head, missing = _chain(db, header)
    link = follow(head, header, header_sha256)
    if link is Link.NEXT:
        return Place.NEXT
    if link is Link.FORK:
        return Place.FORK
    row = db.execute(
        "SELECT header_sha256 FROM batches WHERE source = ? AND product = ? AND epoch = ? AND sequence = ?",
        (header.source, header.product, header.epoch, header.sequence),
    ).fetchone()
    if row is not None:
        return Place.DUPLICATE if row[0] == header_sha256 else Place.FORK
    if link is Link.STALE:
        return Place.STALE
    # Retention may have passed over a batch that was kept; one that never came must not be acked.
    return Place.TOO_LATE if covers(missing, header.sequence) else Place.DUPLICATE


def advance(db: sqlite3.Connection, header: Header, header_sha256: bytes, now_ms: int) -> None:
    """Makes a batch the head of its chain and remembers what was skipped."""
    head, missing = _chain(db, header)
    if head is not None and header.epoch > head.epoch:
        missing = []
    missing += missing_before(head, header)
    db.execute(
        "INSERT OR REPLACE INTO chains VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            header.source,
            header.product,
            header.epoch,
            header.sequence,
            header_sha256,
            json.dumps(missing[-_MAX_MISSING:]),
            now_ms,
        ),
    )


def heads(db: sqlite3.Connection, source: str) -> list[ChainHead]:
    rows = db.execute(
        "SELECT product, epoch, sequence, header_sha256 FROM chains WHERE source = ?", (source,)
    )
    return [
        ChainHead(product=product, epoch=epoch, sequence=sequence, header_sha256=digest)
        for product, epoch, sequence, digest in rows
    ]


def _chain(db: sqlite3.Connection, header: Header) -> tuple[Head | None, list[tuple[int, int]]]:
    row = db.execute(
        "SELECT epoch, sequence, header_sha256, missing FROM chains WHERE source = ? AND product = ?",
        (header.source, header.product),
    ).fetchone()
    if row is None:
        return None, []
    return Head(*row[:3]), [(first, last) for first, last in json.loads(row[3])]
