"""The rows of a spool: chains, batches and their signers. All SQL on them stands here."""

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import ChainHead
from telltale.seal.chain import Head
from telltale.seal.sealing import sha256
from telltale.source import declarations, waiting
from telltale.sqlite import add_column, row_checksum

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
# A row of `batches` as its checksum covers it, which is the last. Texts as bytes: a damaged one may be none.
_ROW = (
    "id, CAST(product AS BLOB), epoch, sequence, records, sheddable, CAST(certificates AS BLOB), batch,"
    " checksum"
)


@dataclass(frozen=True)
class Spooled:
    """A batch on disk that is not acked yet. `batch`: bytes of a SealedBatch.

    damaged: the row or its signer is not what was kept. Then only the id is told.
    """

    id: int
    product: str = ""
    epoch: int = 0
    sequence: int = 0
    batch: bytes = b""
    certificates: tuple[bytes, ...] = ()
    damaged: bool = False


@dataclass(frozen=True)
class Stated:
    """What a row says of its batch, as far as it can be believed. header: empty when it cannot be read."""

    product: str
    epoch: int
    sequence: int
    records: int
    header: Header


def prepare(db: sqlite3.Connection) -> None:
    """Brings a file of an earlier version up, and begins to count what waits."""
    # One damaged word must not keep the rest from being read.
    db.text_factory = lambda text: text.decode(errors="replace")
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
    identifier, (product, *place, batch) = waiting.last_row(db) + 1, row
    checksum = row_checksum((identifier, product.encode(), *place, names.encode(), batch))
    db.execute(
        "INSERT INTO batches"
        " (id, product, epoch, sequence, records, sheddable, batch, certificates, checksum)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (identifier, *row, names, checksum),
    )
    mark(db, identifier, product, late=late)


def mark(db: sqlite3.Connection, identifier: int, product: str, *, late: bool) -> None:
    """Remembers of a batch whether it was sealed late."""
    if late:
        db.execute("INSERT OR IGNORE INTO late VALUES (?, ?)", (identifier, product))
    else:
        db.execute("DELETE FROM late WHERE id = ?", (identifier,))


def replace(db: sqlite3.Connection, identifier: int, batch: bytes, certificates: Sequence[bytes]) -> None:
    """Puts another batch into the place of one."""
    names = _keep_certificates(db, certificates)
    found = db.execute(f"SELECT {_ROW} FROM batches WHERE id = ?", (identifier,)).fetchone()
    checksum = row_checksum((*found[:-3], names.encode(), batch))
    db.execute(
        "UPDATE batches SET batch = ?, certificates = ?, checksum = ? WHERE id = ?",
        (batch, names, checksum, identifier),
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


def delete(db: sqlite3.Connection, identifiers: Iterable[int]) -> int:
    """Drops batches, as far as they are there; returns how many were."""
    deleted = 0
    for identifier in identifiers:
        deleted += db.execute("DELETE FROM batches WHERE id = ?", (identifier,)).rowcount
        db.execute("DELETE FROM late WHERE id = ?", (identifier,))
    return deleted


def wish_anew(db: sqlite3.Connection, product: str) -> None:
    """A product's chain is to begin anew, if it has one."""
    db.execute("INSERT OR IGNORE INTO renewals SELECT product FROM chains WHERE product = ?", (product,))


def wished_anew(db: sqlite3.Connection) -> list[str]:
    """Products whose chains are to begin anew; they are not asked for again."""
    wished = db.execute("SELECT product FROM renewals").fetchall()
    db.execute("DELETE FROM renewals")
    return [product for (product,) in wished]


def damaged(db: sqlite3.Connection, product: str | None = None) -> list[int]:
    """Batches of a product, or of all, whose rows are not what was kept."""
    mine, names = ("", ()) if product is None else (" WHERE product = ?", (product,))
    return [row[0] for row in db.execute(f"SELECT {_ROW} FROM batches{mine}", names) if not _is_whole(row)]


def stated(db: sqlite3.Connection, identifier: int) -> Stated:
    """What a batch is of, damaged or not: the header within it says again what its row does."""
    row = db.execute(f"SELECT {_ROW} FROM batches WHERE id = ?", (identifier,)).fetchone()
    header = Header()
    with contextlib.suppress(DecodeError, TypeError):
        header = header_of(row[7])
    if not _is_whole(row):
        said = (header.product.encode(), header.epoch, header.sequence, header.record_count)
        for column, value in enumerate(said, start=1):
            mended = (*row[:column], value, *row[column + 1 :])
            # It was this one column.
            if _is_whole(mended):
                row = mended
                break
    product, *numbers = row[1:5]
    epoch, sequence, records = (number if isinstance(number, int) else 0 for number in numbers)
    return Stated(_text(product), epoch, sequence, max(0, records), header)


def products(db: sqlite3.Connection) -> list[str]:
    """Of which there is a chain or a batch."""
    found = db.execute("SELECT product FROM chains UNION SELECT product FROM batches").fetchall()
    return [product for (product,) in found]


def sequences(db: sqlite3.Connection, product: str, epoch: int) -> list[int]:
    """Of the batches of a chain, ascending."""
    found = db.execute(
        "SELECT sequence FROM batches WHERE product = ? AND epoch = ? ORDER BY sequence", (product, epoch)
    )
    return [sequence for (sequence,) in found]


def last_but(db: sqlite3.Connection, product: str, without: Sequence[int]) -> tuple[int, int, bytes] | None:
    """Epoch, sequence and bytes of a product's last batch, some rows left out."""
    found: tuple[int, int, bytes] | None = db.execute(
        "SELECT epoch, sequence, batch FROM batches WHERE product = ?"
        " AND id NOT IN (SELECT value FROM json_each(?)) ORDER BY id DESC LIMIT 1",
        (product, json.dumps(without)),
    ).fetchone()
    return found


def header_of(encoded: bytes) -> Header:
    return Header.FromString(SealedBatch.FromString(encoded).header)


def after(
    db: sqlite3.Connection, last_id: int, max_bytes: int, max_batches: int, without: frozenset[str]
) -> list[Spooled]:
    found: list[Spooled] = []
    size = 0
    selected = db.execute(
        f"SELECT {_ROW} FROM batches"
        " WHERE id > ? AND product NOT IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT ?",
        (last_id, json.dumps(sorted(without)), max_batches),
    )
    for row in selected:
        identifier, product, epoch, sequence, _, _, names, batch, _ = row
        signer = _certificates(db, names) if _is_whole(row) else None
        if signer is None:
            found.append(Spooled(identifier, damaged=True))
            continue
        size += len(batch)
        if found and size > max_bytes:
            break
        found.append(Spooled(identifier, _text(product), epoch, sequence, batch, signer))
    return found


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
    # One that is there and damaged is mended by this.
    added = db.executemany(
        "INSERT INTO certificates VALUES (?, ?)"
        " ON CONFLICT DO UPDATE SET der = excluded.der WHERE der IS NOT excluded.der",
        zip(names, certificates, strict=True),
    ).rowcount
    if added and db.execute("SELECT count(*) FROM certificates").fetchone()[0] > _SPARE_CERTIFICATES:
        db.execute(
            "DELETE FROM certificates WHERE sha256 NOT IN (SELECT value FROM json_each(?)) AND sha256 NOT IN"
            " (SELECT named.value FROM batches,"
            " json_each(iif(json_valid(batches.certificates), batches.certificates, '[]')) AS named)",
            (json.dumps(names),),
        )
    return json.dumps(names)


def _certificates(db: sqlite3.Connection, names: bytes) -> tuple[bytes, ...] | None:
    """A signer's chain, leaf first, each as its digest says; None when one of them is not there any more."""
    found = []
    try:
        listed = json.loads(names)
    except ValueError:
        return None
    for name in listed:
        row = db.execute("SELECT der FROM certificates WHERE sha256 = ?", (name,)).fetchone()
        if row is None or not isinstance(row[0], bytes) or sha256(row[0]).hex() != name:
            return None
        found.append(row[0])
    return tuple(found)


def _is_whole(row: Sequence[Any]) -> bool:
    """Whether a row, its checksum last, is what was kept."""
    *facts, checksum = row
    if not isinstance(facts[-1], bytes):
        return False
    # Of an earlier version: over the batch alone, or None from before there were any. No row that was kept
    # with a checksum of its own passes by that, save by a chance of one in 2^32.
    return checksum is None or checksum in (row_checksum(facts), zlib.crc32(facts[-1]))


def _text(word: bytes | None) -> str:
    return (word or b"").decode(errors="replace")
