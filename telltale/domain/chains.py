"""What a domain remembers of every chain, whatever retention says: the head, and what never arrived."""

import json
import sqlite3
from dataclasses import dataclass
from enum import Enum

from google.protobuf.message import DecodeError

from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import ChainHead
from telltale.seal.chain import Head, Link, Range, covers, follow, is_ahead

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS chains (
        source TEXT NOT NULL, product TEXT NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
        header_sha256 BLOB NOT NULL, missing TEXT NOT NULL, received_ms INTEGER NOT NULL,
        PRIMARY KEY (source, product)
    ) STRICT""",
)
# Ranges of a chain that never arrived; of more, the oldest become one.
_MAX_MISSING = 256


class Place(Enum):
    """Where a batch belongs in a domain's memory of its chain."""

    NEXT = "next"
    DUPLICATE = "duplicate"
    FORK = "fork"
    STALE = "stale"
    CONTESTED = "contested"
    TOO_LATE = "too late"
    AHEAD = "ahead"


@dataclass
class Known:
    """What is remembered of one chain: where it ends, and what never arrived, oldest first."""

    head: Head | None
    missing: list[Range]


def known(db: sqlite3.Connection, header: Header) -> Known:
    """What is remembered of the chain that a batch belongs to."""
    row = db.execute(
        "SELECT epoch, sequence, header_sha256, missing FROM chains WHERE source = ? AND product = ?",
        (header.source, header.product),
    ).fetchone()
    if row is None:
        return Known(None, [])
    return Known(Head(*row[:3]), [(first, last) for first, last in json.loads(row[3])])


def place(db: sqlite3.Connection, chain: Known, header: Header, header_sha256: bytes, now_ms: int) -> Place:
    head, missing = chain.head, chain.missing
    link = follow(head, header, header_sha256)
    if link is Link.NEXT:
        return Place.AHEAD if _begins_ahead(header, head, now_ms) else Place.NEXT
    if link is Link.FORK:
        return Place.FORK
    row = db.execute(
        "SELECT header_sha256 FROM batches WHERE source = ? AND product = ? AND epoch = ? AND sequence = ?",
        (header.source, header.product, header.epoch, header.sequence),
    ).fetchone()
    if row is not None:
        return Place.DUPLICATE if row[0] == header_sha256 else Place.FORK
    if link is Link.STALE:
        return Place.CONTESTED if head is not None and _goes_on(db, header, head) else Place.STALE
    # Retention may have passed over a batch that was kept; one that never came must not be acked.
    return Place.TOO_LATE if covers(missing, header.sequence) else Place.DUPLICATE


def _begins_ahead(header: Header, head: Head | None, now_ms: int) -> bool:
    """Whether it begins a chain that no honest clock begins now.

    Whoever held a key for a moment could raise the epoch by years otherwise, and leave its owner behind.
    Right above the known epoch a chain may always begin: one that was raised leaves nobody behind.
    """
    known = head.epoch if head is not None else 0
    return header.epoch > known + 1 and is_ahead(header.epoch, now_ms)


def _goes_on(db: sqlite3.Connection, header: Header, head: Head) -> bool:
    """Whether an older chain was sealed on after the present one had begun.

    One holder never does that: who starts a chain anew seals everything that waits again in the new one.
    """
    row = db.execute(
        "SELECT batch FROM batches WHERE source = ? AND product = ? AND epoch = ? ORDER BY sequence LIMIT 1",
        (header.source, header.product, head.epoch),
    ).fetchone()
    if row is None:
        return False
    try:
        began = Header.FromString(SealedBatch.FromString(row[0]).header).sealed_time
    except DecodeError:
        # Damaged where it lies: nothing can be said by it.
        return False
    return header.sealed_time.ToNanoseconds() > began.ToNanoseconds()


def holds(chain: Known, header: Header, sequence: int) -> bool:
    """Whether the chain of a header has come as far as this sequence."""
    head = chain.head
    return head is not None and (head.epoch, head.sequence) >= (header.epoch, sequence)


def advance(
    db: sqlite3.Connection, chain: Known, header: Header, header_sha256: bytes, now_ms: int, *, kept: bool
) -> None:
    """Makes a batch the head of its chain and remembers what was skipped, and itself when it is not kept.

    A declared hole is remembered like any other: should its batch come after all, it is not here.
    """
    head, missing = chain.head, chain.missing
    if head is not None and header.epoch > head.epoch:
        missing = []
    first = header.sequence
    if head is not None:
        first = head.sequence + 1 if header.epoch == head.epoch else 1
    last = header.sequence - 1 if kept else header.sequence
    if first <= last:
        _add(missing, (first, last))
    db.execute(
        "INSERT OR REPLACE INTO chains VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            header.source,
            header.product,
            header.epoch,
            header.sequence,
            header_sha256,
            json.dumps(missing),
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


def rebuild(db: sqlite3.Connection) -> None:
    """Of a file of which parts are lost: no chain ends before a batch that is here.

    What is not here of a chain that was lost itself is not acked, should it come again.
    """
    db.execute(
        "INSERT INTO chains"
        " SELECT source, product, epoch, sequence, header_sha256, format('[[1,%d]]', sequence - 1),"
        " received_ms FROM batches AS b"
        " WHERE true AND NOT EXISTS (SELECT 1 FROM batches AS later"
        " WHERE later.source = b.source AND later.product = b.product"
        " AND (later.epoch, later.sequence) > (b.epoch, b.sequence))"
        " ON CONFLICT (source, product) DO UPDATE SET epoch = excluded.epoch, sequence = excluded.sequence,"
        " header_sha256 = excluded.header_sha256, missing = excluded.missing"
        " WHERE (excluded.epoch, excluded.sequence) > (chains.epoch, chains.sequence)"
    )


def _add(missing: list[Range], skipped: Range) -> None:
    """Adds a range that lies behind all others."""
    if missing and missing[-1][1] == skipped[0] - 1:
        skipped = missing.pop()[0], skipped[1]
    missing.append(skipped)
    if len(missing) > _MAX_MISSING:
        # Too much is called missing then: a batch is refused rather than acked without being here.
        missing[:2] = [(missing[0][0], missing[1][1])]
