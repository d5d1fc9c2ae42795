"""What lies in a spool, for people: read beside the process that owns it, and nothing is changed."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf.message import DecodeError

from telltale.api.mesh.v1.batch_pb2 import HoleReason, LossReason
from telltale.errors import NotFound, Unavailable
from telltale.source.rows import header_of
from telltale.source.waiting import ROW_BYTES
from telltale.sqlite import connect

_CHAINS = f"""
SELECT c.product, c.epoch, c.sequence, count(b.id), coalesce(sum(b.records), 0),
       coalesce(sum(length(b.batch) + {ROW_BYTES}), 0), min(b.id)
FROM chains c LEFT JOIN batches b ON b.product = c.product
GROUP BY c.product ORDER BY c.product
"""


@dataclass(frozen=True)
class SpooledChain:
    """One product. `oldest` is when the first batch that waits was sealed; None when none waits."""

    product: str
    epoch: int
    # Of the last batch that was sealed.
    sequence: int
    batches: int
    records: int
    bytes: int
    oldest: datetime | None


@dataclass(frozen=True)
class Missing:
    """What the product's next batch will declare: sequences given up, or records that were in no batch."""

    product: str
    reason: str
    records: int
    first_sequence: int | None = None
    last_sequence: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class Refused:
    """A batch that the domain refused for good."""

    product: str
    epoch: int
    sequence: int
    records: int
    reason: str
    detail: str
    time: datetime


@dataclass(frozen=True)
class Inspection:
    """A whole spool. refused: the latest, newest first."""

    chains: Sequence[SpooledChain]
    missing: Sequence[Missing]
    refused: Sequence[Refused]


def inspect(path: Path) -> Inspection:
    """Reads a spool's file; raises NotFound when there is none, Unavailable when it is none. Blocks."""
    if not path.is_file():
        raise NotFound(f"there is no spool {path}; name the state directory of an agent or another source")
    try:
        with closing(connect(path, read_only=True)) as db:
            # One moment for all of it: the owner may be at work.
            db.execute("BEGIN")
            return Inspection(_chains(db), _missing(db), _refused(db))
    except sqlite3.Error as broken:
        raise Unavailable(f"{path} cannot be read as a spool: {broken}") from broken


def _chains(db: sqlite3.Connection) -> list[SpooledChain]:
    return [
        SpooledChain(product, epoch, sequence, batches, records, size, _sealed(db, first))
        for product, epoch, sequence, batches, records, size, first in db.execute(_CHAINS)
    ]


def _sealed(db: sqlite3.Connection, identifier: int | None) -> datetime | None:
    if identifier is None:
        return None
    (batch,) = db.execute("SELECT batch FROM batches WHERE id = ?", (identifier,)).fetchone()
    with suppress(DecodeError):
        sealed: datetime = header_of(batch).sealed_time.ToDatetime(tzinfo=UTC)
        return sealed
    # Damaged; it is given up when it is its turn.
    return None


def _missing(db: sqlite3.Connection) -> list[Missing]:
    holes = db.execute("SELECT product, reason, records, first, last FROM holes ORDER BY product, first")
    losses = db.execute(
        "SELECT product, reason, records, detail FROM losses ORDER BY product, reason, detail"
    )
    return [
        *(
            Missing(product, _word(HoleReason.Name(reason), "HOLE_REASON_"), records, first, last)
            for product, reason, records, first, last in holes
        ),
        *(
            Missing(product, _word(LossReason.Name(reason), "LOSS_REASON_"), records, detail=detail)
            for product, reason, records, detail in losses
        ),
    ]


def _refused(db: sqlite3.Connection) -> list[Refused]:
    rows = db.execute(
        "SELECT product, epoch, sequence, records, reason, detail, time FROM refused ORDER BY rowid DESC"
    )
    return [
        Refused(
            product,
            epoch,
            sequence,
            records,
            _word(reason, "REFUSAL_REASON_"),
            detail,
            # SQLite's CURRENT_TIMESTAMP, which is UTC and does not say so.
            datetime.fromisoformat(time).replace(tzinfo=UTC),
        )
        for product, epoch, sequence, records, reason, detail, time in rows
    ]


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()
