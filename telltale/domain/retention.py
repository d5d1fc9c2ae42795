"""What a log forgets: by each product's age, and by bytes from the product that has most of them."""

import sqlite3
import sys

from telltale.domain import inventory
from telltale.sqlite import bound

# Rows that one step deletes, so that appends wait only briefly.
STEP_ROWS = 2_000
# Between two looks at which product has most: small against any bound, large against a step's fixed cost.
_STEP_BYTES = 16 << 20
# What pruning leaves of a full disk: one reserve for itself, the others for what comes until the next time.
_RESERVES = 3


def prune_older(db: sqlite3.Connection, product: str, cutoff_ms: int) -> int:
    """Deletes up to STEP_ROWS batches that were received before a moment; returns how many."""
    return _delete(db, product, [offset for offset, _ in _prunable(db, product, cutoff_ms)])


def prune_largest(db: sqlite3.Connection, max_bytes: int) -> int:
    """Deletes the oldest batches of the product that has most, when all together exceed the bound.

    On a disk that has less than the bound, so many go that the log can be written for a while. One step:
    returns how many it deleted, 0 when nothing is to be done or nothing may be deleted. Who floods the log
    loses its own history by that, and nobody else's.
    """
    sizes = db.execute("SELECT product, bytes FROM sizes ORDER BY bytes DESC").fetchall()
    total = sum(size for _, size in sizes)
    excess = total - bound(db, max_bytes, total, _RESERVES)
    if excess <= 0:
        return 0
    for place, (product, size) in enumerate(sizes):
        others = sizes[place + 1][1] if place + 1 < len(sizes) else 0
        wanted = min(excess, _STEP_BYTES, max(size - others, excess // 2, 1))
        chosen = []
        for offset, batch in _prunable(db, product, None):
            if wanted <= 0:
                break
            chosen.append(offset)
            wanted -= batch
        if chosen:
            return _delete(db, product, chosen)
    return 0


def room(db: sqlite3.Connection) -> int:
    """Bytes of batches that the log's disk has room for while pruning still fits; negative: none."""
    (total,) = db.execute("SELECT coalesce(sum(bytes), 0) FROM sizes").fetchone()
    return bound(db, sys.maxsize, total) - int(total)


def _prunable(db: sqlite3.Connection, product: str, cutoff_ms: int | None) -> list[tuple[int, int]]:
    """Offsets and bytes of the oldest batches, save what an inventory's state needs."""
    rows = db.execute(
        "SELECT b.offset, length(b.batch) FROM batches b"
        " LEFT JOIN snapshots s ON s.product = b.product AND s.source = b.source"
        " WHERE b.product = ? AND (? IS NULL OR b.received_ms < ?)"
        " AND (s.first_offset IS NULL AND ? OR b.offset < s.first_offset)"
        " ORDER BY b.offset LIMIT ?",
        (product, cutoff_ms, cutoff_ms, not inventory.is_kept(db, product), STEP_ROWS),
    )
    return rows.fetchall()


def _delete(db: sqlite3.Connection, product: str, offsets: list[int]) -> int:
    if offsets:
        db.executemany("DELETE FROM batches WHERE offset = ?", [(offset,) for offset in offsets])
        db.execute(
            "INSERT INTO pruned VALUES (?, ?)"
            " ON CONFLICT DO UPDATE SET through = max(through, excluded.through)",
            (product, offsets[-1]),
        )
    return len(offsets)
