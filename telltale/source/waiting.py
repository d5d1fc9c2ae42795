"""How much waits in a spool, by product: counted by SQLite itself, beside the file.

A temporary table of the writing connection costs no page of the file, and triggers keep it true within each
transaction: what is rolled back was never counted.
"""

import sqlite3
from dataclasses import dataclass

from telltale.sqlite import malformed

# What a row takes beside the batch's own bytes.
ROW_BYTES = 256

# By the index, where that of the lowest row would look at all of them.
_FIRST = "SELECT id FROM batches WHERE product = old.product ORDER BY epoch, sequence LIMIT 1"
_SCHEMA = (
    """CREATE TEMP TABLE waiting (
        product TEXT PRIMARY KEY, batches INTEGER NOT NULL, records INTEGER NOT NULL, bytes INTEGER NOT NULL,
        first INTEGER
    ) STRICT""",
    "INSERT INTO waiting SELECT product, count(*), sum(records), sum(length(batch)), min(id) FROM batches"
    " GROUP BY product",
    """CREATE TEMP TRIGGER batch_kept AFTER INSERT ON main.batches BEGIN
        INSERT INTO waiting VALUES (new.product, 1, new.records, length(new.batch), new.id)
        ON CONFLICT DO UPDATE SET batches = batches + 1, records = records + excluded.records,
            bytes = bytes + excluded.bytes, first = coalesce(first, excluded.first);
    END""",
    """CREATE TEMP TRIGGER batch_sealed_again AFTER UPDATE OF batch ON main.batches BEGIN
        UPDATE waiting SET bytes = bytes - length(old.batch) + length(new.batch) WHERE product = new.product;
    END""",
    f"""CREATE TEMP TRIGGER batch_gone AFTER DELETE ON main.batches BEGIN
        UPDATE waiting SET batches = batches - 1, records = records - old.records,
            bytes = bytes - length(old.batch), first = iif(first = old.id, ({_FIRST}), first)
        WHERE product = old.product;
    END""",
)
_BYTES = f"SELECT coalesce(sum(bytes + {ROW_BYTES} * batches), 0) FROM waiting"


@dataclass(frozen=True)
class Waiting:
    """What waits of one product. first: the row of the oldest batch."""

    batches: int
    records: int
    first: int


def begin(db: sqlite3.Connection) -> None:
    """Counts what is there, and from then on what comes and goes by this connection."""
    for statement in _SCHEMA:
        try:
            db.execute(statement)
        except sqlite3.IntegrityError as twice:
            raise malformed(f"the index of batches is out of order: {twice}") from twice


def total_bytes(db: sqlite3.Connection) -> int:
    return int(db.execute(_BYTES).fetchone()[0])


def by_product(db: sqlite3.Connection) -> dict[str, Waiting]:
    """Of those products of which something waits."""
    rows = db.execute("SELECT product, batches, records, first FROM waiting WHERE batches > 0")
    return {product: Waiting(*counts) for product, *counts in rows.fetchall()}


def last_row(db: sqlite3.Connection) -> int:
    """The highest row that a batch ever had; it is given once, and outlives acks."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'batches'").fetchone()
    return int(row[0]) if row else 0
