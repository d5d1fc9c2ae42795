"""What the kept batches of a product log cannot be read without: schemas, and the certificates of signers.

Of each source is known until which offset it used what, and nothing is forgotten that a batch of it may need.
"""

import sqlite3
from collections.abc import Iterable

from telltale.api.mesh.v1.batch_pb2 import Header

_DOUBT = "INTO meta SELECT 'needs after', coalesce(max(offset), 0) FROM batches"
SCHEMA = (
    """CREATE TABLE IF NOT EXISTS needs (
        source TEXT NOT NULL, name TEXT NOT NULL, through INTEGER NOT NULL, used_ms INTEGER NOT NULL,
        PRIMARY KEY (source, name)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS needs_by_name ON needs (name)",
    # What the batches up to here need was never noted: they are of a log that an earlier version has made.
    f"INSERT OR IGNORE {_DOUBT}",
)
# Sources that one retention step looks at, so that appends wait only briefly.
_SOURCES = 50


def has_schema(db: sqlite3.Connection, schema_sha256: bytes) -> bool:
    row = db.execute("SELECT 1 FROM schemas WHERE sha256 = ?", (schema_sha256.hex(),)).fetchone()
    return row is not None


def note(db: sqlite3.Connection, header: Header, signer: str, offset: int, now_ms: int) -> None:
    """Remembers what a batch that is kept at this offset needs."""
    db.executemany(
        "INSERT INTO needs VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET through = excluded.through, used_ms = excluded.used_ms",
        [(header.source, name, offset, now_ms) for name in (header.schema_sha256.hex(), signer)],
    )


def doubt(db: sqlite3.Connection) -> None:
    """Of a log that was recovered: what its batches need may have been lost with what was not."""
    db.execute(f"INSERT OR REPLACE {_DOUBT}")


def forget_passed(db: sqlite3.Connection, before_ms: int, after: str) -> str:
    """Forgets what some sources used last before a time, signers too, if no kept batch of theirs can need it.

    after: the source that was looked at last. Returns the next such; empty when all were.
    """
    sources = [
        source
        for (source,) in db.execute(
            "SELECT DISTINCT source FROM needs WHERE source > ? AND used_ms < ? ORDER BY source LIMIT ?",
            (after, before_ms, _SOURCES),
        )
    ]
    for source in sources:
        (earliest,) = db.execute("SELECT min(offset) FROM batches WHERE source = ?", (source,)).fetchone()
        gone = db.execute(
            "DELETE FROM needs WHERE source = ? AND used_ms < ? AND (? IS NULL OR through < ?)"
            " RETURNING name",
            (source, before_ms, earliest, earliest),
        ).fetchall()
        # A leaf names one source, and schemas have names of their own. Issuers are few, and shared.
        for table in ("signers", "certificates"):
            db.executemany(f"DELETE FROM {table} WHERE sha256 = ?", gone)
    return sources[-1] if len(sources) == _SOURCES else ""


def forget_schemas(db: sqlite3.Connection, wanted: Iterable[bytes]) -> list[bytes]:
    """Forgets of these schemas those that no kept batch can need; returns them."""
    (counted_after,) = db.execute("SELECT value FROM meta WHERE name = 'needs after'").fetchone()
    if db.execute("SELECT 1 FROM batches WHERE offset <= ?", (int(counted_after),)).fetchone():
        return []
    gone = [
        one for one in wanted if not db.execute("SELECT 1 FROM needs WHERE name = ?", (one.hex(),)).fetchone()
    ]
    db.executemany("DELETE FROM schemas WHERE sha256 = ?", [(one.hex(),) for one in gone])
    return gone
