"""Sealing again what waits in a spool: a whole chain anew, or batches in their places."""

import sqlite3

from telltale.api.mesh.v1.batch_pb2 import Loss, LossReason, SealedBatch
from telltale.seal.chain import Head
from telltale.seal.sealing import sha256
from telltale.source import declarations, rows
from telltale.source.drafts import Draft, Resealer


def in_place(db: sqlite3.Connection, product: str, first: int, reseal: Resealer) -> None:
    """Seals the batches of a chain from one on again, with the same places."""
    mine = "SELECT id FROM batches WHERE product = ? AND id >= ? ORDER BY id"
    previous: bytes | None = None
    for (identifier,) in db.execute(mine, (product, first)).fetchall():
        epoch, sequence, encoded = db.execute(
            "SELECT epoch, sequence, batch FROM batches WHERE id = ?", (identifier,)
        ).fetchone()
        header = rows.header_of(encoded)
        before = header.previous_header_sha256 if previous is None else previous
        draft = Draft(epoch, sequence, before, tuple(header.holes))
        sealed = reseal(draft, SealedBatch.FromString(encoded))
        rows.replace(db, identifier, sealed.batch.SerializeToString(), sealed.certificates)
        rows.mark(db, identifier, product, late=sealed.late)
        previous = sha256(sealed.batch.header)
        head = rows.head(db, product)
        if head is not None and (head.epoch, head.sequence) == (epoch, sequence):
            rows.set_head(db, product, Head(epoch, sequence, previous))


def anew(db: sqlite3.Connection, product: str, epoch: int, reseal: Resealer) -> None:
    """Starts a product's chain anew, and seals what waits of it again."""
    # Only the names: the batches together may be more than memory holds.
    mine = "SELECT id FROM batches WHERE product = ? ORDER BY id"
    identifiers = db.execute(mine, (product,)).fetchall()
    lost_records = declarations.forget_holes(db, product)
    head = Head(epoch, 0, b"")
    for (identifier,) in identifiers:
        encoded, sheddable = db.execute(
            "SELECT batch, sheddable FROM batches WHERE id = ?", (identifier,)
        ).fetchone()
        lost_records += sum(hole.records for hole in rows.header_of(encoded).holes)
        draft = Draft(epoch, head.sequence + 1, head.header_sha256)
        sealed = reseal(draft, SealedBatch.FromString(encoded))
        rows.delete(db, [identifier])
        row = (product, epoch, draft.sequence, sealed.records, sheddable, sealed.batch.SerializeToString())
        rows.insert(db, row, sealed.certificates, late=sealed.late)
        head = Head(epoch, draft.sequence, sha256(sealed.batch.header))
    rows.set_head(db, product, head)
    # The new chain starts at 1 and cannot name holes of the old one; their records are declared as lost.
    if lost_records:
        detail = "batches were given up before the chain began anew"
        loss = Loss(records=lost_records, reason=LossReason.LOSS_REASON_BOUND, detail=detail)
        declarations.add_loss(db, product, loss)
