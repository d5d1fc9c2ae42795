"""One transaction of the writer: a group of decoded batches becomes rows, and the cursor moves with them."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from functools import lru_cache

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from services.writer import sql
from services.writer.assembly import Assembly, Part
from services.writer.decoding import Decoded, Row, malformed
from services.writer.inventory import Inventory, RowNumbers
from services.writer.plans import Plans
from services.writer.provenance import Provenance
from services.writer.rows import time_text
from services.writer.tables import Table
from telltale.api.mesh.v1.batch_pb2 import Gap, GapReason, HoleReason, LossReason
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.consume.delivered import Delivered, Missing
from telltale.errors import BatchRefused, InvalidInput
from telltale.identity.distrust import Distrust
from telltale.naming import SpiffeId
from telltale.seal.chain import Link, without
from telltale.seal.verify import MAX_HOLES

# Of a refused payload this much is kept for people to look at.
_QUARANTINED_BYTES = 64 << 10
_INT63 = (1 << 63) - 1
# Ranges without a declaration that one batch may show: those between the holes of its header.
_MOST_MISSING = MAX_HOLES + 1


@dataclass
class Tally:
    """What a group did, once it is durable."""

    batches: int = 0
    records: int = 0
    duplicates: int = 0
    gaps: int = 0
    refused: list[tuple[Delivered, BatchRefused]] = field(default_factory=list)


class Group:
    """Applies items in their order. Everything happens in the caller's transaction."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        plans: Plans,
        numbers: RowNumbers,
        now: str,
        distrust: Distrust,
        assembly: Assembly,
    ) -> None:
        self._distrust = distrust
        self._connection = connection
        self._plans = plans
        self._numbers = numbers
        self._now = now
        self._tally = Tally()
        self._cursors: dict[tuple[str, str], int] = {}
        self._rows: dict[tuple[str, tuple[str, ...]], list[Row]] = {}
        self._assembly = assembly
        self._stored: dict[str, tuple[int, int, str]] = {}

    def apply(self, items: Iterable[Decoded | Missing]) -> Tally:
        for item in items:
            if isinstance(item, Missing):
                self._gap(item.gap)
            else:
                self._batch(item)
        for (table, columns), rows in self._rows.items():
            sql.insert_rows(self._connection, table, columns, rows)
        self._assembly.write(self._connection, self._now)
        for product, (batches, records, received) in self._stored.items():
            sql.count_stored(self._connection, product, batches, records, received)
        for (product, log), offset in self._cursors.items():
            values = {"product": product, "log": log, "offset": offset, "updated_time": self._now}
            sql.upsert(self._connection, "cursors", ("product", "log"), values)
        return self._tally

    def _batch(self, decoded: Decoded) -> None:
        item = decoded.item
        if item.position.log:
            self._cursors[item.product, item.position.log] = item.position.offset
        stored = (
            sql.select(self._connection, "batches", ("header_sha256",), _identity(item))
            if item.signed
            else []
        )
        if stored and stored[0][0] == item.header_sha256.hex():
            # Whatever else can be said of it now, it is here already.
            self._tally.duplicates += 1
            return
        # A batch that was verified before the word came is stored after what was stored was marked.
        refused = decoded.refused or self._disbelieved(item) or self._place(decoded, taken=bool(stored))
        if refused is not None:
            self._quarantine(item, refused)

    def _disbelieved(self, item: Delivered) -> BatchRefused | None:
        sealed = item.header.sealed_time.ToDatetime(UTC)
        word = self._distrust.at(_spiffe_id(item.header.source), sealed, sealed)
        if word is None:
            return None
        return BatchRefused(RefusalReason.REFUSAL_REASON_DISTRUSTED, str(word))

    def _place(self, decoded: Decoded, *, taken: bool) -> BatchRefused | None:
        """Stores a batch unless it was stored before; returns why it must not be."""
        item, table = decoded.item, decoded.chunk.table if decoded.chunk else None
        if taken:
            detail = f"another batch of {item.header.source} is stored in its place"
            return BatchRefused(RefusalReason.REFUSAL_REASON_FORK, detail)
        if item.link is Link.SEEN and self._is_pruned(item):
            self._tally.duplicates += 1
            return None
        if table is None:
            return malformed("it was not decoded")
        if item.link is Link.SEEN and table.history is not None:
            detail = "later changes of its chain were applied before it came"
            return BatchRefused(RefusalReason.REFUSAL_REASON_BROKEN_CHAIN, detail)
        try:
            self._plans.ensure(self._connection, item, table)
            if decoded.chunk is not None and item.contract is not None:
                # It was already, unless another version of the product has just decided otherwise.
                decoded.chunk.form(self._plans.in_files(item.contract))
        except (InvalidInput, ValueError) as wrong:
            return malformed(str(wrong))
        self._store(decoded, item, table)
        return None

    def _store(self, decoded: Decoded, item: Delivered, table: Table) -> None:
        provenance = Provenance.of(item)
        if item.contract is not None and self._plans.in_files(item.contract):
            count = decoded.count
            first = self._assembly.add(self._connection, table, Part(decoded, provenance))
        elif table.history is None:
            count = decoded.count
            first = self._append(table, decoded.records, provenance)
        else:
            inventory = Inventory(self._connection, self._numbers, item.product, item.header.source)
            count = inventory.apply(decoded, table, provenance)
            first = self._numbers.take(self._connection, table.log, 0) - count
        batch = {
            **_identity(item),
            "header_sha256": item.header_sha256.hex(),
            "log": provenance.log,
            "offset": provenance.offset,
            "received_time": provenance.received_time,
            "sealed_time": time_text(item.header.sealed_time.ToDatetime()),
            "records": item.header.record_count,
            "first_row": first if count else None,
            "last_row": first + count - 1 if count else None,
            "replay_run": provenance.replay_run,
        }
        sql.insert_new(self._connection, "batches", batch)
        self._note(item)
        self._advance(item)
        records = item.header.record_count
        batches, total, _ = self._stored.get(item.product, (0, 0, ""))
        self._stored[item.product] = (batches + 1, total + records, provenance.received_time)
        self._tally.batches += 1
        self._tally.records += records

    def _append(self, table: Table, records: Sequence[Row], provenance: Provenance) -> int:
        first = self._numbers.take(self._connection, table.name, len(records))
        columns = (*(column.name for column in table.columns), *sql.PROVENANCE_NAMES, "_row")
        rows = self._rows.setdefault((table.name, columns), [])
        values = provenance.values
        rows += [(*record, *values, number) for number, record in enumerate(records, first)]
        return first

    def _quarantine(self, item: Delivered, refused: BatchRefused) -> None:
        header, batch = item.header, item.batch
        kept = {
            "product": item.product,
            "source": header.source,
            "epoch": header.epoch & _INT63,
            "sequence": header.sequence & _INT63,
            "log": item.position.log,
            "offset": item.position.offset,
            "reason": RefusalReason.Name(refused.reason).removeprefix("REFUSAL_REASON_"),
            "detail": refused.detail,
            "signed": item.signed,
            "header": batch.header[:_QUARANTINED_BYTES],
            "signature": batch.signature[:_QUARANTINED_BYTES],
            "payload": batch.payload[:_QUARANTINED_BYTES],
            "payload_bytes": len(batch.payload),
            "header_sha256": item.header_sha256.hex(),
            "received_time": time_text(item.received_time),
            "quarantined_time": self._now,
        }
        if sql.insert_new(self._connection, "quarantine", kept):
            self._tally.refused.append((item, refused))
        if item.signed and item.link is Link.NEXT and self._belongs(refused):
            # It has its place in the chain, although its records are not here.
            self._note(item)
            self._advance(item)

    def _belongs(self, refused: BatchRefused) -> bool:
        return refused.reason not in (
            RefusalReason.REFUSAL_REASON_FOREIGN_SOURCE,
            RefusalReason.REFUSAL_REASON_FORK,
        )

    def _note(self, item: Delivered) -> None:
        """Writes down what the batch says, or shows, about records and batches that are missing.

        A header that declares more than its bounds was refused before.
        """
        header = item.header
        received = time_text(item.received_time)
        for place, loss in enumerate(header.losses):
            values = {
                **_identity(item),
                "place": place,
                "records": min(loss.records, _INT63),
                "reason": _name(LossReason, loss.reason, "LOSS_REASON_"),
                "detail": loss.detail[:1_000],
                "received_time": received,
            }
            sql.insert_new(self._connection, "losses", values)
        for hole in header.holes:
            if 0 < hole.first_sequence <= hole.last_sequence < header.sequence:
                reason = _name(HoleReason, hole.reason, "HOLE_REASON_")
                records = min(hole.records, _INT63)
                self._hole(item, hole.first_sequence, hole.last_sequence, records, reason)
        for first, last in item.missing[:_MOST_MISSING]:
            self._hole(item, first, last, None, "GAP" if item.after_gap else "UNDECLARED")
        if item.link is Link.SEEN:
            self._fill(item, header.sequence, header.sequence)

    def _hole(self, item: Delivered, first: int, last: int, records: int | None, reason: str) -> None:
        if reason not in ("GAP", "UNDECLARED"):
            self._fill(item, first, last)
        values = {
            "product": item.product,
            "source": item.header.source,
            "epoch": item.header.epoch,
            "first_sequence": first,
            "last_sequence": last,
            "records": records,
            "reason": reason,
            "noticed_in_sequence": item.header.sequence,
            "noticed_time": time_text(item.received_time),
        }
        sql.insert_new(self._connection, "holes", values)

    def _fill(self, item: Delivered, first: int, last: int) -> None:
        """Sequences that turned up, or that were declared lost, are no longer unexplained."""
        chain = {"product": item.product, "source": item.header.source, "epoch": item.header.epoch}
        for row in sql.unexplained(self._connection, chain, first, last):
            sql.delete(self._connection, "holes", row)
            for begin, end in without([(row["first_sequence"], row["last_sequence"])], [(first, last)]):
                sql.insert_new(
                    self._connection, "holes", {**row, "first_sequence": begin, "last_sequence": end}
                )

    def _advance(self, item: Delivered) -> None:
        if item.link is not Link.NEXT:
            return
        chain = {
            "product": item.product,
            "source": item.header.source,
            "epoch": item.header.epoch,
            "sequence": item.header.sequence,
            "header_sha256": item.header_sha256.hex(),
            "last_sealed_time": time_text(item.header.sealed_time.ToDatetime()),
            "last_received_time": time_text(item.received_time),
        }
        sql.advance_chain(self._connection, chain)

    def _is_pruned(self, item: Delivered) -> bool:
        chain = {"product": item.product, "source": item.header.source, "epoch": item.header.epoch}
        rows = sql.select(self._connection, "chains", ("pruned_sequence",), chain)
        return bool(rows) and item.header.sequence <= rows[0][0]

    def _gap(self, gap: Gap) -> None:
        reason = _name(GapReason, gap.reason, "GAP_REASON_")
        values = {
            "product": gap.product,
            "log": gap.log,
            "after_offset": min(gap.after_offset, _INT63),
            "reason": reason,
            "resumed_log": gap.resumed.log or None,
            "resumed_offset": min(gap.resumed.offset, _INT63) if gap.resumed.log else None,
            "noticed_time": self._now,
        }
        if sql.insert_new(self._connection, "gaps", values):
            self._tally.gaps += 1
        sql.mark_gap(self._connection, gap.product)
        if gap.reason == GapReason.GAP_REASON_LOG_REPLACED:
            # Naming the log again would bring the same gap at every start.
            sql.delete(self._connection, "cursors", {"product": gap.product, "log": gap.log})
            self._cursors.pop((gap.product, gap.log), None)


@lru_cache(maxsize=65_536)
def _spiffe_id(source: str) -> SpiffeId:
    # Few sources send many batches each.
    return SpiffeId.parse(source)


def _identity(item: Delivered) -> dict[str, str | int]:
    return {
        "product": item.product,
        "source": item.header.source,
        "epoch": item.header.epoch,
        "sequence": item.header.sequence,
    }


def _name(enum: EnumTypeWrapper, number: int, prefix: str) -> str:
    return enum.Name(number).removeprefix(prefix) if number in enum.values() else str(number)
