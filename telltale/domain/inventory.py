"""The current state of inventories, kept row by row with the offsets between which each row was true.

That makes pages consistent: all of them show the state at the position of the first.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from telltale.api.mesh.v1.batch_pb2 import Header

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS inventory (
        product TEXT NOT NULL, source TEXT NOT NULL, key BLOB NOT NULL, from_offset INTEGER NOT NULL,
        to_offset INTEGER, to_ms INTEGER, record BLOB NOT NULL,
        PRIMARY KEY (product, source, key, from_offset)
    ) STRICT""",
    "CREATE INDEX IF NOT EXISTS inventory_superseded ON inventory (to_ms) WHERE to_ms IS NOT NULL",
    # A snapshot on its way: it counts only when it is whole.
    """CREATE TABLE IF NOT EXISTS staging (
        product TEXT NOT NULL, source TEXT NOT NULL, snapshot TEXT NOT NULL, next_index INTEGER NOT NULL,
        first_offset INTEGER NOT NULL, PRIMARY KEY (product, source)
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS staged (
        product TEXT NOT NULL, source TEXT NOT NULL, key BLOB NOT NULL, record BLOB NOT NULL,
        PRIMARY KEY (product, source, key)
    ) STRICT""",
    # Each source's last complete snapshot: the state is what began there and what followed.
    """CREATE TABLE IF NOT EXISTS snapshots (
        product TEXT NOT NULL, source TEXT NOT NULL, first_offset INTEGER NOT NULL,
        last_offset INTEGER NOT NULL, PRIMARY KEY (product, source)
    ) STRICT""",
)
# Rows that one look returns end at this size, however many were asked for.
_PAGE_BYTES = 1 << 20
# How long a page token of an earlier position still works.
PAGE_LIFE_MS = 15 * 60 * 1000


@dataclass(frozen=True)
class Change:
    """What a batch says of an inventory: records by key, and keys that are gone."""

    upserts: Mapping[bytes, bytes] = field(default_factory=dict)
    removed: Sequence[bytes] = ()


@dataclass(frozen=True)
class Query:
    """One look at the state: at a position (None: now), after a row (its place; None: all), so many rows."""

    product: str
    position: int | None
    after: int | None
    limit: int


@dataclass(frozen=True)
class Row:
    """One row of the state. seen_ms: Unix milliseconds of the source's last batch.

    place: the row's number in the file, which names it without telling its key.
    """

    place: int
    source: str
    key: bytes
    record: bytes
    seen_ms: int


@dataclass(frozen=True)
class Page:
    """Rows in the order of source and key. position: offset up to which the state is shown.

    complete: no rows follow. expired: the state at the position that was asked for is gone.
    """

    rows: Sequence[Row]
    position: int
    complete: bool
    expired: bool = False


def apply(db: sqlite3.Connection, header: Header, offset: int, now_ms: int, change: Change) -> None:
    """Brings the state up to a batch that was just appended at `offset`."""
    if header.HasField("snapshot"):
        _stage(db, header, offset, change)
        if header.snapshot.end:
            _finish(db, header, offset, now_ms)
        return
    # A delta in between means that the snapshot was given up.
    _abandon(db, header)
    for key, record in change.upserts.items():
        _upsert(db, header, offset, now_ms, key, record)
    for key in change.removed:
        _close(db, header, offset, now_ms, key)


def page(db: sqlite3.Connection, query: Query) -> Page:
    latest = db.execute(
        "SELECT coalesce(max(offset), 0) FROM batches WHERE product = ?", (query.product,)
    ).fetchone()[0]
    position = latest if query.position is None else query.position
    oldest = db.execute("SELECT value FROM meta WHERE name = ?", (_superseded(query.product),)).fetchone()
    if query.position is not None and oldest is not None and query.position < int(oldest[0]):
        return Page((), position, complete=True, expired=True)
    source, key = "", b""
    if query.after is not None:
        row = db.execute(
            "SELECT source, key FROM inventory WHERE rowid = ? AND product = ?", (query.after, query.product)
        ).fetchone()
        if row is None:
            return Page((), position, complete=True, expired=True)
        source, key = row
    found = db.execute(
        "SELECT i.rowid, i.source, i.key, i.record, coalesce(c.received_ms, 0) FROM inventory i"
        " LEFT JOIN chains c ON c.source = i.source AND c.product = i.product"
        " WHERE i.product = ? AND i.from_offset <= ? AND (i.to_offset IS NULL OR i.to_offset > ?)"
        " AND (i.source, i.key) > (?, ?) ORDER BY i.source, i.key LIMIT ?",
        (query.product, position, position, source, key, query.limit),
    )
    rows: list[Row] = []
    size = 0
    for row in found:
        rows.append(Row(*row))
        size += len(rows[-1].record)
        if size > _PAGE_BYTES:
            break
    return Page(rows, position, complete=len(rows) < query.limit and size <= _PAGE_BYTES)


def forget_superseded(db: sqlite3.Connection, now_ms: int) -> None:
    """Deletes rows that were replaced long enough ago, and remembers which positions that made unreadable."""
    cutoff = now_ms - PAGE_LIFE_MS
    gone = db.execute(
        "SELECT product, max(to_offset) FROM inventory WHERE to_ms < ? GROUP BY product", (cutoff,)
    ).fetchall()
    for product, offset in gone:
        db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_superseded(product), str(offset)))
    db.execute("DELETE FROM inventory WHERE to_ms < ?", (cutoff,))


def _superseded(product: str) -> str:
    return f"superseded {product}"


def is_kept(db: sqlite3.Connection, product: str) -> bool:
    """Whether the product has state; its batches before a first whole snapshot are then kept too."""
    return db.execute("SELECT 1 FROM inventory WHERE product = ? LIMIT 1", (product,)).fetchone() is not None


def _stage(db: sqlite3.Connection, header: Header, offset: int, change: Change) -> None:
    snapshot = header.snapshot
    # Its identifier is unique within the chain only.
    name = f"{header.epoch}/{snapshot.id}"
    row = db.execute(
        "SELECT snapshot, next_index FROM staging WHERE product = ? AND source = ?",
        (header.product, header.source),
    ).fetchone()
    if snapshot.index == 0:
        _abandon(db, header)
        db.execute(
            "INSERT INTO staging VALUES (?, ?, ?, 1, ?)", (header.product, header.source, name, offset)
        )
    elif row != (name, snapshot.index):
        # A part is missing: the rest of this snapshot is worth nothing.
        _abandon(db, header)
        return
    else:
        db.execute(
            "UPDATE staging SET next_index = ? WHERE product = ? AND source = ?",
            (snapshot.index + 1, header.product, header.source),
        )
    db.executemany(
        "INSERT OR REPLACE INTO staged VALUES (?, ?, ?, ?)",
        [(header.product, header.source, key, record) for key, record in change.upserts.items()],
    )


def _finish(db: sqlite3.Connection, header: Header, offset: int, now_ms: int) -> None:
    who = (header.product, header.source)
    staging = db.execute("SELECT first_offset FROM staging WHERE product = ? AND source = ?", who).fetchone()
    if staging is None:
        return
    gone = db.execute(
        "SELECT key FROM inventory i WHERE product = ? AND source = ? AND to_offset IS NULL AND NOT EXISTS"
        " (SELECT 1 FROM staged s WHERE s.product = i.product AND s.source = i.source AND s.key = i.key)",
        who,
    ).fetchall()
    for (key,) in gone:
        _close(db, header, offset, now_ms, key)
    staged = db.execute("SELECT key, record FROM staged WHERE product = ? AND source = ?", who).fetchall()
    for key, record in staged:
        _upsert(db, header, offset, now_ms, key, record)
    db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)", (*who, staging[0], offset))
    _abandon(db, header)


def _abandon(db: sqlite3.Connection, header: Header) -> None:
    for table in ("staging", "staged"):
        db.execute(f"DELETE FROM {table} WHERE product = ? AND source = ?", (header.product, header.source))


def _upsert(
    db: sqlite3.Connection, header: Header, offset: int, now_ms: int, key: bytes, record: bytes
) -> None:
    _close(db, header, offset, now_ms, key)
    db.execute(
        "INSERT OR REPLACE INTO inventory VALUES (?, ?, ?, ?, NULL, NULL, ?)",
        (header.product, header.source, key, offset, record),
    )


def _close(db: sqlite3.Connection, header: Header, offset: int, now_ms: int, key: bytes) -> None:
    db.execute(
        "UPDATE inventory SET to_offset = ?, to_ms = ?"
        " WHERE product = ? AND source = ? AND key = ? AND to_offset IS NULL",
        (offset, now_ms, header.product, header.source, key),
    )
