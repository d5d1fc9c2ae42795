"""What a spool remembers of itself outside of its file, so that it notices what its file has lost.

A write-ahead log that was cut short, or a file that was put back, is a spool like any other: it cannot tell
that it held more. Beside it lies a mark, written after each commit, which says how far it was filled and what
waited. It is not synced: a crash of the machine may leave an older mark, which claims less, never one that
claims what was not synced before it.
"""

import contextlib
import json
import os
import sqlite3
import zlib
from dataclasses import dataclass
from pathlib import Path

import structlog

from telltale.api.mesh.v1.batch_pb2 import Loss, LossReason
from telltale.source import declarations, rows, waiting
from telltale.source.waiting import Waiting

_LOST = "the spool's file lost what it had kept and nobody had acked"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Mark:
    """What a spool held after a commit. last_row: see `waiting.last_row`. waiting: by product."""

    last_row: int
    waiting: dict[str, Waiting]

    @staticmethod
    def of(db: sqlite3.Connection) -> "Mark":
        return Mark(waiting.last_row(db), waiting.by_product(db))


@dataclass(frozen=True)
class Missing:
    """What a spool lacks of a product."""

    product: str
    batches: int
    records: int


class MarkFile:
    """The file of a mark: one line, overwritten in place. Methods block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._failed = False

    def open(self) -> Mark | None:
        """The mark that was left; None when there is none, or none that can be read."""
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            with open(self._descriptor, "rb", closefd=False) as file:
                line = file.readline()
            return _parse(line) if line else None
        except (OSError, ValueError, TypeError, KeyError) as broken:
            _log.warning("the mark of a spool cannot be read", file=str(self._path), reason=str(broken))
            return None

    def write(self, mark: Mark) -> None:
        """Without it the spool works as well, and does not notice what its file loses."""
        held = {product: [one.batches, one.records, one.first] for product, one in mark.waiting.items()}
        content = json.dumps({"last_row": mark.last_row, "waiting": held}, separators=(",", ":")).encode()
        try:
            # What is left of a longer line before lies behind the end of this one.
            os.pwrite(self._descriptor, b"%08x %b\n" % (zlib.crc32(content), content), 0)
            self._failed = False
        except OSError as failed:
            if not self._failed:
                _log.warning("a spool is not marked", file=str(self._path), reason=str(failed))
            self._failed = True

    def close(self) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = -1


def declare_lost(db: sqlite3.Connection, mark: Mark) -> list[Missing]:
    """Of a spool that was filled further once: what it lacks is declared, and its chains are to begin anew.

    A whole spool has at least the last row of its mark, since the mark is written after the commit.
    """
    reached = waiting.last_row(db)
    if reached >= mark.last_row:
        return []
    missing = []
    for product, held in mark.waiting.items():
        # What had gone by then, and is there again, does not count.
        batches, records = db.execute(
            "SELECT count(*), coalesce(sum(records), 0) FROM batches WHERE product = ? AND id >= ?",
            (product, held.first),
        ).fetchone()
        if batches >= held.batches:
            continue
        lost = Missing(product, held.batches - batches, max(0, held.records - records))
        loss = Loss(records=lost.records, reason=LossReason.LOSS_REASON_FAILURE, detail=_LOST)
        declarations.add_loss(db, product, loss)
        # What was lost may be on its way to the domain, in the places that come next.
        rows.wish_anew(db, product)
        missing.append(lost)
    # In the same commit, so that nothing is declared twice though the mark is not written any more.
    db.execute("DELETE FROM sqlite_sequence WHERE name = 'batches'")
    db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('batches', ?)", (mark.last_row,))
    return missing


def _parse(line: bytes) -> Mark:
    checksum, _, content = line.rstrip(b"\n").partition(b" ")
    if int(checksum, 16) != zlib.crc32(content):
        raise ValueError("its checksum does not hold")
    said = json.loads(content)
    held = {product: Waiting(*map(int, one)) for product, one in said["waiting"].items()}
    return Mark(int(said["last_row"]), held)
