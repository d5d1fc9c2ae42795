"""The rows of a log: batches with a checksum each, and who signed them. All SQL on them stands here."""

import json
import sqlite3
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from telltale.api.mesh.v1.batch_pb2 import Delivery, Header
from telltale.pages import Value
from telltale.seal.sealing import sha256
from telltale.sqlite import add_column, row_checksum
from telltale.wire import field

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    """CREATE TABLE IF NOT EXISTS batches (
        offset INTEGER PRIMARY KEY AUTOINCREMENT, product TEXT NOT NULL, source TEXT NOT NULL,
        epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, header_sha256 BLOB NOT NULL,
        signer TEXT NOT NULL, received_ms INTEGER NOT NULL, batch BLOB NOT NULL, checksum INTEGER,
        UNIQUE (source, product, epoch, sequence)
    ) STRICT""",
    "CREATE INDEX IF NOT EXISTS batches_by_product ON batches (product, offset)",
    "CREATE INDEX IF NOT EXISTS batches_by_time ON batches (product, received_ms)",
    "CREATE TABLE IF NOT EXISTS certificates (sha256 TEXT PRIMARY KEY, der BLOB NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS signers (sha256 TEXT PRIMARY KEY, certificates TEXT NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS schemas (sha256 TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS pruned (product TEXT PRIMARY KEY, through INTEGER NOT NULL) STRICT",
    # Bytes of each product's batches, kept by triggers: in the same transaction, whoever adds or deletes.
    "CREATE TABLE IF NOT EXISTS sizes (product TEXT PRIMARY KEY, bytes INTEGER NOT NULL) STRICT",
    """CREATE TRIGGER IF NOT EXISTS batch_added AFTER INSERT ON batches BEGIN
        INSERT INTO sizes VALUES (new.product, length(new.batch))
        ON CONFLICT (product) DO UPDATE SET bytes = bytes + excluded.bytes; END""",
    """CREATE TRIGGER IF NOT EXISTS batch_deleted AFTER DELETE ON batches BEGIN
        UPDATE sizes SET bytes = bytes - length(old.batch) WHERE product = old.product; END""",
)
# What `read` wants of a query, of the table `b`.
# Texts as bytes: a damaged one may be none.
COLUMNS = (
    "b.offset, CAST(b.product AS BLOB), CAST(b.source AS BLOB), b.epoch, b.sequence, b.header_sha256,"
    " CAST(b.signer AS BLOB), b.received_ms, b.batch, b.checksum"
)


# Of the table itself, and which of them are text when the offset is left out.
_COLUMN_COUNT = 10
_TEXTS = (0, 1, 5)


@dataclass(frozen=True)
class Entry:
    """A durable batch, as it is delivered. batch: bytes of a SealedBatch with delivery."""

    offset: int
    batch: bytes
    signer: str


@dataclass(frozen=True)
class Found:
    """What lies behind an offset: whole batches, or else batches that do not hold any more, never both.

    damaged: their offsets. pruned_through: how far retention had passed at that moment.
    """

    entries: Sequence[Entry] = ()
    damaged: Sequence[int] = ()
    pruned_through: int = 0

    def __bool__(self) -> bool:
        return bool(self.entries or self.damaged)


def upgrade(db: sqlite3.Connection) -> None:
    """Brings a file of an earlier version up."""
    add_column(db, "batches", "checksum", "INTEGER")
    if not db.execute("SELECT 1 FROM sizes LIMIT 1").fetchone():
        count_bytes(db)


def count_bytes(db: sqlite3.Connection) -> None:
    """Counts anew what the triggers count from then on."""
    db.execute("DELETE FROM sizes")
    db.execute("INSERT INTO sizes SELECT product, sum(length(batch)) FROM batches GROUP BY product")


def last_offset(db: sqlite3.Connection) -> int:
    """The highest offset that was ever given, kept or not."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'batches'").fetchone()
    return int(row[0]) if row else 0


def skip_to(db: sqlite3.Connection, offset: int) -> None:
    """Gives offsets beyond this one only."""
    if (
        db.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'batches'", (offset,)).rowcount
        == 0
    ):
        db.execute("INSERT INTO sqlite_sequence VALUES ('batches', ?)", (offset,))


def insert(
    db: sqlite3.Connection, header: Header, header_sha256: bytes, signer: str, now_ms: int, batch: bytes
) -> int:
    """Keeps a batch, and returns its offset."""
    offset, product, source = last_offset(db) + 1, header.product, header.source
    place = header.epoch, header.sequence, header_sha256
    checksum = row_checksum(
        (offset, product.encode(), source.encode(), *place, signer.encode(), now_ms, batch)
    )
    db.execute(
        "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (offset, product, source, *place, signer, now_ms, batch, checksum),
    )
    return offset


def read(log: str, rows: Iterable[tuple[Any, ...]], max_bytes: int) -> Found:
    """The first whole batches up to a size, at least one; or the damaged ones before them."""
    entries: list[Entry] = []
    damaged: list[int] = []
    size = 0
    for *row, checksum in rows:
        offset, signer, received_ms, batch = row[0], row[6], row[7], row[8]
        # None: it was stored before batches had checksums.
        if checksum is not None and checksum != row_checksum(row):
            if entries:
                break
            damaged.append(offset)
            continue
        size += len(batch)
        if damaged or (entries and size > max_bytes):
            break
        entries.append(delivered(log, offset, received_ms, batch, signer.decode()))
    return Found(entries, damaged)


def signed(db: sqlite3.Connection, found: Found, known: Container[str]) -> Found:
    """Of what was found, what its reader can verify: a batch whose signer does not hold any more is damaged.

    known: signers whose certificates were read before.
    """
    lost = {one.signer for one in found.entries if one.signer not in known}
    lost = {signer for signer in lost if not certificates_of(db, signer)}
    if not lost:
        return found
    if found.entries[0].signer in lost:
        damaged = takewhile(lambda one: one.signer in lost, found.entries)
        return replace(found, entries=(), damaged=[one.offset for one in damaged])
    return replace(found, entries=list(takewhile(lambda one: one.signer not in lost, found.entries)))


def delivered(log: str, offset: int, received_ms: int, batch: bytes, signer: str) -> Entry:
    """A stored batch with its place."""
    delivery = Delivery(log=log, offset=offset)
    delivery.received_time.FromMilliseconds(received_ms)
    # Appending a field to the bytes is the same as setting it on the message.
    return Entry(offset, batch + field(4, delivery.SerializeToString()), signer)


def adopt(db: sqlite3.Connection, strays: Iterable[tuple[int, tuple[Value, ...]]]) -> None:
    """Takes of a damaged file's rows the whole batches that are missing here and retention has not passed."""
    through = dict(db.execute("SELECT product, through FROM pruned"))
    statement = f"INSERT OR IGNORE INTO batches VALUES ({', '.join('?' * _COLUMN_COUNT)})"
    for offset, row in strays:
        if len(row) != _COLUMN_COUNT or row[-1] is None or row[-1] != row_checksum((offset, *row[1:-1])):
            continue
        facts: list[Any] = list(row[1:])
        for place in _TEXTS:
            facts[place] = facts[place].decode()
        if offset > through.get(facts[0], 0):
            db.execute(statement, (offset, *facts))


def pruned_through(db: sqlite3.Connection, product: str) -> int:
    row = db.execute("SELECT through FROM pruned WHERE product = ?", (product,)).fetchone()
    return row[0] if row else 0


def keep_signer(db: sqlite3.Connection, certificates: Sequence[bytes]) -> str:
    """Keeps a signer's chain, leaf first; also in place of one that does not hold any more."""
    names = [sha256(der).hex() for der in certificates]
    if certificates_of(db, names[0]) != tuple(certificates):
        db.executemany(
            "INSERT OR REPLACE INTO certificates VALUES (?, ?)", zip(names, certificates, strict=True)
        )
        db.execute("INSERT OR REPLACE INTO signers VALUES (?, ?)", (names[0], json.dumps(names)))
    return names[0]


def certificates_of(db: sqlite3.Connection, signer: str) -> tuple[bytes, ...]:
    """A signer's chain, leaf first; nothing of one that does not hold whole any more."""
    # As bytes: a damaged text may be none.
    row = db.execute("SELECT CAST(certificates AS BLOB) FROM signers WHERE sha256 = ?", (signer,)).fetchone()
    names = _names(row[0]) if row else ()
    # A leaf of another name belongs to another signer.
    if not names or names[0] != signer:
        return ()
    found = [
        db.execute("SELECT der FROM certificates WHERE sha256 = ?", (name,)).fetchone() for name in names
    ]
    if not all(row and sha256(row[0]).hex() == name for name, row in zip(names, found, strict=True)):
        return ()
    return tuple(row[0] for row in found)


def _names(written: bytes) -> tuple[str, ...]:
    """Digests of a signer's certificates; none when a flip has made them something else."""
    try:
        names = json.loads(written)
    except ValueError:
        return ()
    whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    # SQLite takes no text that is not Unicode, such as half a surrogate.
    return tuple(names) if whole and all(name.isascii() for name in names) else ()


def schemas(db: sqlite3.Connection) -> list[bytes]:
    """Those that still are what their digest says."""
    rows = db.execute("SELECT sha256, data FROM schemas ORDER BY rowid").fetchall()
    for digest, data in rows:
        if sha256(data).hex() != digest:
            # Its sources register it again.
            db.execute("DELETE FROM schemas WHERE sha256 = ?", (digest,))
    return [data for digest, data in rows if sha256(data).hex() == digest]
