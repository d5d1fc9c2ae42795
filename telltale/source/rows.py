"""The rows of a spool: chains, batches and their signers. All SQL on them stands here."""

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from telltale.api.mesh.v1.batch_pb2 import Header, Hole, HoleReason, Loss, LossReason, SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import ChainHead
from telltale.seal.chain import Head
from telltale.seal.sealing import sha256
from telltale.source import declarations, waiting
from telltale.sqlite import add_column

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS chains (
        product TEXT PRIMARY KEY, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
        header_sha256 BLOB NOT NULL
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS batches (
        id INTEGER PRIMARY KEY AUTOINCREMENT, product TEXT NOT NULL, epoch INTEGER NOT NULL,
        sequence INTEGER NOT NULL, records INTEGER NOT NULL, sheddable INTEGER NOT NULL,
        batch BLOB NOT NULL, certificates TEXT NOT NULL, checksum INTEGER
    ) STRICT""",
    "CREATE INDEX IF NOT EXISTS batches_by_chain ON batches (product, epoch, sequence)",
    """CREATE TABLE IF NOT EXISTS certificates (sha256 TEXT PRIMARY KEY, der BLOB NOT NULL) STRICT""",
    # Batches that were sealed when their signer's certificate had ended, or by a clock that was before it.
    "CREATE TABLE IF NOT EXISTS late (id INTEGER PRIMARY KEY, product TEXT NOT NULL) STRICT",
    """CREATE TABLE IF NOT EXISTS refused (
        product TEXT NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, records INTEGER NOT NULL,
        reason TEXT NOT NULL, detail TEXT NOT NULL, time TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
    ) STRICT""",
    # Products whose chains begin anew as soon as it is known what the domain has of them.
    "CREATE TABLE IF NOT EXISTS renewals (product TEXT PRIMARY KEY) STRICT",
    *declarations.SCHEMA,
)
# Of so many signers nobody looks whether their batches have all gone.
_SPARE_CERTIFICATES = 64


@dataclass(frozen=True)
class Spooled:
    """A batch on disk that is not acked yet. `batch`: bytes of a SealedBatch.

    damaged: these are not the bytes that were kept.
    """

    id: int
    product: str
    epoch: int
    sequence: int
    batch: bytes
    certificates: tuple[bytes, ...]
    damaged: bool = False


def prepare(db: sqlite3.Connection) -> None:
    """Brings a file of an earlier version up, and begins to count what waits."""
    add_column(db, "batches", "checksum", "INTEGER")
    waiting.begin(db)


def insert(
    db: sqlite3.Connection,
    row: tuple[str, int, int, int, int, bytes],
    certificates: Sequence[bytes],
    *,
    late: bool = False,
) -> None:
    """Keeps a batch (product, epoch, sequence, records, sheddable, bytes)."""
    names = _keep_certificates(db, certificates)
    cursor = db.execute(
        "INSERT INTO batches (product, epoch, sequence, records, sheddable, batch, certificates, checksum)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*row, names, zlib.crc32(row[-1])),
    )
    mark(db, cursor.lastrowid or 0, row[0], late=late)


def mark(db: sqlite3.Connection, identifier: int, product: str, *, late: bool) -> None:
    """Remembers of a batch whether it was sealed late."""
    if late:
        db.execute("INSERT OR IGNORE INTO late VALUES (?, ?)", (identifier, product))
    else:
        db.execute("DELETE FROM late WHERE id = ?", (identifier,))


def replace(db: sqlite3.Connection, identifier: int, batch: bytes, certificates: Sequence[bytes]) -> None:
    """Puts another batch into the place of one."""
    names = _keep_certificates(db, certificates)
    db.execute(
        "UPDATE batches SET batch = ?, certificates = ?, checksum = ? WHERE id = ?",
        (batch, names, zlib.crc32(batch), identifier),
    )


def late(db: sqlite3.Connection) -> list[tuple[str, int]]:
    """Products with batches that were sealed late, and the first of them each."""
    found = db.execute("SELECT product, min(id) FROM late GROUP BY product").fetchall()
    return [(product, identifier) for product, identifier in found]


def is_late(db: sqlite3.Connection, identifier: int) -> bool:
    return db.execute("SELECT 1 FROM late WHERE id = ?", (identifier,)).fetchone() is not None


def place(db: sqlite3.Connection, identifier: int) -> tuple[int, int]:
    """Epoch and sequence of a batch."""
    epoch, sequence = db.execute("SELECT epoch, sequence FROM batches WHERE id = ?", (identifier,)).fetchone()
    return epoch, sequence


def delete(db: sqlite3.Connection, identifiers: Iterable[int]) -> None:
    """Drops batches, as far as they are there."""
    for identifier in identifiers:
        db.execute("DELETE FROM batches WHERE id = ?", (identifier,))
        db.execute("DELETE FROM late WHERE id = ?", (identifier,))


def wish_anew(db: sqlite3.Connection, product: str) -> None:
    """A product's chain is to begin anew, if it has one."""
    db.execute("INSERT OR IGNORE INTO renewals SELECT product FROM chains WHERE product = ?", (product,))


def wished_anew(db: sqlite3.Connection) -> list[str]:
    """Products whose chains are to begin anew; they are not asked for again."""
    wished = db.execute("SELECT product FROM renewals").fetchall()
    db.execute("DELETE FROM renewals")
    return [product for (product,) in wished]


def damaged(db: sqlite3.Connection, product: str) -> list[int]:
    """Batches that are not what was kept."""
    rows = db.execute(
        "SELECT id, batch, checksum FROM batches WHERE product = ? AND checksum IS NOT NULL", (product,)
    )
    return [identifier for identifier, batch, checksum in rows if zlib.crc32(batch) != checksum]


def header_of(encoded: bytes) -> Header:
    return Header.FromString(SealedBatch.FromString(encoded).header)


def after(
    db: sqlite3.Connection, last_id: int, max_bytes: int, max_batches: int, without: frozenset[str]
) -> list[Spooled]:
    found: list[Spooled] = []
    size = 0
    selected = db.execute(
        "SELECT id, product, epoch, sequence, batch, certificates, checksum FROM batches"
        " WHERE id > ? AND product NOT IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT ?",
        (last_id, json.dumps(sorted(without)), max_batches),
    )
    for identifier, product, epoch, sequence, batch, names, checksum in selected:
        size += len(batch)
        if found and size > max_bytes:
            break
        signer = _certificates(db, json.loads(names))
        damaged = checksum is not None and checksum != zlib.crc32(batch)
        found.append(Spooled(identifier, product, epoch, sequence, batch, signer, damaged))
    return found


def declare_missing(db: sqlite3.Connection, strays: object) -> None:
    """Of a spool that was damaged and recovered: what its chains lack now is a hole, and more may be lost.

    Nothing of acked batches is missing: they had gone.
    """
    detail = "the spool was damaged; what it held may be missing"
    unknown = Loss(reason=LossReason.LOSS_REASON_FAILURE, detail=detail)
    for (product,) in db.execute("SELECT product FROM chains UNION SELECT product FROM batches").fetchall():
        declarations.add_loss(db, product, unknown)
        rest = db.execute(
            "SELECT epoch, sequence, batch FROM batches WHERE product = ? ORDER BY id", (product,)
        ).fetchall()
        known = head(db, product)
        if rest and (known is None or rest[-1][:2] > (known.epoch, known.sequence)):
            epoch, sequence, batch = rest[-1]
            with contextlib.suppress(DecodeError):
                known = Head(epoch, sequence, sha256(SealedBatch.FromString(batch).header))
                set_head(db, product, known)
        if not rest or known is None:
            continue
        there = {sequence for epoch, sequence, _ in rest if epoch == known.epoch}
        for sequence in range(min(there, default=known.sequence + 1), known.sequence + 1):
            if sequence not in there:
                reason = HoleReason.HOLE_REASON_DAMAGED
                hole = Hole(first_sequence=sequence, last_sequence=sequence, reason=reason)
                declarations.add_hole(db, product, hole)


def head(db: sqlite3.Connection, product: str) -> Head | None:
    row = db.execute(
        "SELECT epoch, sequence, header_sha256 FROM chains WHERE product = ?", (product,)
    ).fetchone()
    return Head(*row) if row else None


def left(db: sqlite3.Connection, known: ChainHead) -> bool:
    """Whether the chain goes on beside what the domain knows: a restored spool collects before it asks."""
    mine = head(db, known.product)
    if mine is not None and (mine.epoch, mine.sequence) == (known.epoch, known.sequence):
        return mine.header_sha256 != known.header_sha256
    row = db.execute(
        "SELECT batch FROM batches WHERE product = ? AND epoch = ? AND sequence = ?",
        (known.product, known.epoch, known.sequence + 1),
    ).fetchone()
    try:
        return row is not None and header_of(row[0]).previous_header_sha256 != known.header_sha256
    except DecodeError:
        # Damaged: that is found, and given up, where it is sent.
        return False


def set_head(db: sqlite3.Connection, product: str, head: Head) -> None:
    db.execute(
        "INSERT OR REPLACE INTO chains VALUES (?, ?, ?, ?)",
        (product, head.epoch, head.sequence, head.header_sha256),
    )


def _keep_certificates(db: sqlite3.Connection, certificates: Sequence[bytes]) -> str:
    """Remembers a signer's chain, and forgets those whose batches have gone; its names as JSON."""
    names = [sha256(der).hex() for der in certificates]
    added = db.executemany(
        "INSERT OR IGNORE INTO certificates VALUES (?, ?)", zip(names, certificates, strict=True)
    ).rowcount
    if added and db.execute("SELECT count(*) FROM certificates").fetchone()[0] > _SPARE_CERTIFICATES:
        db.execute(
            "DELETE FROM certificates WHERE sha256 NOT IN (SELECT value FROM json_each(?)) AND sha256 NOT IN"
            " (SELECT named.value FROM batches, json_each(batches.certificates) AS named)",
            (json.dumps(names),),
        )
    return json.dumps(names)


def _certificates(db: sqlite3.Connection, names: Sequence[str]) -> tuple[bytes, ...]:
    found = []
    for name in names:
        row = db.execute("SELECT der FROM certificates WHERE sha256 = ?", (name,)).fetchone()
        if row is not None:
            found.append(row[0])
    return tuple(found)
