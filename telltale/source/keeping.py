"""What becomes of a spool's batches within its bound: kept, shed, given up and declared, begun anew.

Each function is a part of one transaction.
"""

import sqlite3
from collections.abc import Sequence
from datetime import timedelta

import structlog
from google.protobuf.message import DecodeError

from telltale.api.mesh.v1.batch_pb2 import Header, Hole, HoleReason
from telltale.api.mesh.v1.ingest_pb2 import ChainHead
from telltale.seal.chain import Head
from telltale.seal.sealing import sha256
from telltale.seal.verify import MAX_FUTURE
from telltale.source import declarations, resealing, rows, waiting
from telltale.source.drafts import Draft, Resealer, Sealer

log = structlog.get_logger(__name__)

_MAX_AHEAD_MS = MAX_FUTURE // timedelta(milliseconds=1)


class SpoolFull(Exception):
    """The batch does not fit, and nothing that may be shed would make room."""


def append(
    db: sqlite3.Connection,
    product: str,
    epoch: int,
    seal: Sealer,
    *,
    sheddable: bool,
    max_bytes: int,
    in_flight: int,
) -> tuple[int, int]:
    """Seals and keeps one batch; returns how many were shed for it, and how many holes it declares.

    in_flight: the last row that is on its way; what lies before it is not shed.
    """
    head = rows.head(db, product) or Head(epoch, 0, b"")
    shed = 0
    while True:
        holes = declarations.holes(db, product)
        losses = declarations.losses(db, product)
        sealed = seal(Draft(head.epoch, head.sequence + 1, head.header_sha256, holes, losses))
        encoded = sealed.batch.SerializeToString()
        made = _make_room(db, max_bytes - len(encoded) - waiting.ROW_BYTES, in_flight)
        if not made:
            break
        # What was shed may be of this very chain: sealed again, this batch declares it.
        shed += made
    rows.set_head(db, product, Head(head.epoch, head.sequence + 1, sha256(sealed.batch.header)))
    row = (product, head.epoch, head.sequence + 1, sealed.records, int(sheddable), encoded)
    rows.insert(db, row, sealed.certificates, late=sealed.late)
    declarations.made(db, product, holes)
    return shed, len(holes)


def give_up(db: sqlite3.Connection, identifier: int, reason: HoleReason) -> None:
    """Drops a batch, to be declared later: itself, and whatever it would have declared."""
    product, sequence, records, encoded = db.execute(
        "SELECT product, sequence, records, batch FROM batches WHERE id = ?", (identifier,)
    ).fetchone()
    try:
        header = rows.header_of(encoded)
    except DecodeError:
        # Damaged. What it would have declared is lost with it, and missing in its chain.
        header = Header()
    rows.delete(db, [identifier])
    for hole in header.holes:
        declarations.add_hole(db, product, hole)
    for loss in header.losses:
        declarations.add_loss(db, product, loss)
    own = Hole(first_sequence=sequence, last_sequence=sequence, records=records, reason=reason)
    declarations.add_hole(db, product, own)


def give_up_damaged(db: sqlite3.Connection, product: str) -> None:
    for identifier in rows.damaged(db, product):
        log.error("a batch in the spool is damaged and given up", product=product)
        give_up(db, identifier, HoleReason.HOLE_REASON_DAMAGED)


def rechain(db: sqlite3.Connection, known: Sequence[ChainHead], epoch: int, reseal: Resealer) -> list[str]:
    """Begins chains anew that lie behind or beside what the domain knows, or are to begin anew anyhow.

    epoch: the time in Unix milliseconds. Returns their products.
    """
    wished = set(rows.wished_anew(db))
    renewed = []
    for head in known:
        mine = rows.head(db, head.product)
        if mine is None:
            next_epoch = max(epoch, head.epoch + 1)
        elif (mine.epoch, mine.sequence) < (head.epoch, head.sequence) or rows.left(db, head):
            next_epoch = max(epoch, head.epoch + 1)
        else:
            continue
        give_up_damaged(db, head.product)
        resealing.anew(db, head.product, next_epoch, reseal)
        renewed.append(head.product)
    epochs = {head.product: head.epoch for head in known}
    for product in sorted(wished - set(renewed)):
        renew(db, product, epoch, epochs.get(product, 0), reseal)
        renewed.append(product)
    return renewed


def renew(db: sqlite3.Connection, product: str, epoch: int, known_epoch: int, reseal: Resealer) -> None:
    """Begins a product's chain anew; see `Spool.renew`."""
    mine = rows.head(db, product)
    if mine is not None:
        give_up_damaged(db, product)
        before = known_epoch if is_ahead(mine.epoch, epoch) else mine.epoch
        resealing.anew(db, product, max(epoch, before + 1), reseal)


def is_ahead(epoch: int, now_ms: int) -> bool:
    """Whether a chain began so far ahead of a clock that a domain with the same clock refuses it."""
    return epoch > now_ms + _MAX_AHEAD_MS


def _make_room(db: sqlite3.Connection, most_bytes: int, in_flight: int) -> int:
    """Sheds until no more than so many bytes wait, oldest first, and returns how many batches that were."""
    shed = 0
    while waiting.total_bytes(db) > most_bytes:
        row = db.execute(
            "SELECT id FROM batches WHERE sheddable AND id > ? ORDER BY id LIMIT 1", (in_flight,)
        ).fetchone()
        if row is None:
            raise SpoolFull
        give_up(db, row[0], HoleReason.HOLE_REASON_SHED)
        shed += 1
    return shed
