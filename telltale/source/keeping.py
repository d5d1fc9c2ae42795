"""What becomes of a spool's batches within its bound: kept, shed, given up and declared, begun anew.

Each function is a part of one transaction.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Sequence

import structlog
from google.protobuf.message import DecodeError

from telltale.api.mesh.v1.batch_pb2 import Hole, HoleReason, Loss, LossReason, SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import ChainHead
from telltale.seal.chain import Head, is_ahead, without
from telltale.seal.sealing import sha256
from telltale.source import declarations, resealing, rows, waiting
from telltale.source.drafts import Draft, Resealer, Sealer
from telltale.sqlite import malformed

log = structlog.get_logger(__name__)


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
    stated = rows.stated(db, identifier)
    if not rows.delete(db, [identifier]):
        raise malformed(f"the spool's row {identifier} is read and cannot be deleted")
    product, sequence = stated.product, stated.sequence
    # What a damaged header would have declared is lost with it, and missing in its chain.
    for hole in stated.header.holes:
        if 0 < hole.first_sequence <= hole.last_sequence < sequence:
            declarations.add_hole(db, product, hole)
    for loss in stated.header.losses:
        declarations.add_loss(db, product, loss)
    head = rows.head(db, product)
    if head is not None and head.epoch == stated.epoch and 0 < sequence <= head.sequence:
        own = Hole(first_sequence=sequence, last_sequence=sequence, records=stated.records, reason=reason)
        declarations.add_hole(db, product, own)
        return
    # Damaged beyond telling its place, or left of a chain that has begun anew: no hole of this chain.
    detail = "a batch was damaged in the spool"
    loss = Loss(records=stated.records, reason=LossReason.LOSS_REASON_FAILURE, detail=detail)
    declarations.add_loss(db, product, loss)


def give_up_damaged(db: sqlite3.Connection, identifiers: Iterable[int]) -> None:
    for identifier in identifiers:
        log.error("a batch in the spool is damaged and given up", row=identifier)
        give_up(db, identifier, HoleReason.HOLE_REASON_DAMAGED)


def declare_missing(db: sqlite3.Connection, strays: object) -> None:
    """Of a spool that was damaged and recovered: what its chains lack now is a hole, and more may be lost.

    Nothing of acked batches is missing: they had gone.
    """
    unknown = Loss(
        reason=LossReason.LOSS_REASON_FAILURE, detail="the spool was damaged; what it held may be missing"
    )
    damaged = rows.damaged(db)
    products = rows.products(db)
    for product in products:
        declarations.add_loss(db, product, unknown)
        _raise_head(db, product, damaged)
    give_up_damaged(db, damaged)
    for product in products:
        head = rows.head(db, product)
        there = rows.sequences(db, product, head.epoch) if head is not None else []
        if head is None or not there:
            continue
        known = [*((one, one) for one in there), *declarations.hole_ranges(db, product)]
        for low, high in without([(there[0], head.sequence)], known):
            reason = HoleReason.HOLE_REASON_DAMAGED
            declarations.add_hole(db, product, Hole(first_sequence=low, last_sequence=high, reason=reason))


def _raise_head(db: sqlite3.Connection, product: str, damaged: Sequence[int]) -> None:
    """The end of a chain is no earlier than its last whole batch."""
    last = rows.last_but(db, product, damaged)
    head = rows.head(db, product)
    if last is not None and (head is None or (last[0], last[1]) > (head.epoch, head.sequence)):
        epoch, sequence, batch = last
        with contextlib.suppress(DecodeError):
            rows.set_head(db, product, Head(epoch, sequence, sha256(SealedBatch.FromString(batch).header)))


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
        give_up_damaged(db, rows.damaged(db, head.product))
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
        give_up_damaged(db, rows.damaged(db, product))
        before = known_epoch if is_ahead(mine.epoch, epoch) else mine.epoch
        resealing.anew(db, product, max(epoch, before + 1), reseal)


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
