"""Decodes a group of delivered batches, many batches of a product at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import pyarrow as pa

from services.writer.rows import Former
from services.writer.tables import Table, table_of
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.consume.columns import to_arrow
from telltale.consume.delivered import Delivered
from telltale.contract.product import Contract
from telltale.errors import BatchRefused, InvalidInput

Row = tuple[Any, ...]


class Chunk:
    """Records of many batches of one version of a product, decoded together; formed for their store."""

    def __init__(self, table: Table, former: Former, records: pa.RecordBatch) -> None:
        self.table = table
        self._former = former
        self._records = records

    def form(self, in_files: bool) -> None:
        """Makes what its store takes; raises ValueError when a value cannot be written."""
        _ = self.columns if in_files else self.rows

    @cached_property
    def rows(self) -> list[Row]:
        return self._former.rows(self._records)

    @cached_property
    def columns(self) -> pa.RecordBatch:
        return self._former.arrays(self._records)


@dataclass(frozen=True)
class Decoded:
    """A batch as a part of a chunk; or why it is none."""

    item: Delivered
    chunk: Chunk | None
    # Records of the chunk that are the batch's: from the first to before the last.
    first: int
    last: int
    removed: Sequence[Row]
    refused: BatchRefused | None

    @classmethod
    def none(cls, item: Delivered, refused: BatchRefused) -> "Decoded":
        return cls(item, None, 0, 0, (), refused)

    @property
    def count(self) -> int:
        return self.last - self.first

    @property
    def records(self) -> Sequence[Row]:
        """Its records as rows, in the order of its table's columns."""
        return () if self.chunk is None else self.chunk.rows[self.first : self.last]


# Whether the records of a product, as the history knows it or else as it says, go into files.
InFiles = Callable[[Contract], bool]


def decode(items: Sequence[Delivered], in_files: InFiles) -> list[Decoded]:
    """Decodes batches and keeps their order. What does not decode comes back refused."""
    by_contract: dict[Contract, list[int]] = {}
    decoded: dict[int, Decoded] = {}
    for index, item in enumerate(items):
        if item.refused is not None or item.contract is None:
            decoded[index] = Decoded.none(item, item.refused or malformed("it has no contract"))
        else:
            by_contract.setdefault(item.contract, []).append(index)
    for contract, indices in by_contract.items():
        outcomes = _decode_product(contract, [items[index] for index in indices], in_files(contract))
        decoded.update(zip(indices, outcomes, strict=True))
    return [decoded[index] for index in range(len(items))]


def decode_payload(contract: Contract, payload: bytes) -> tuple[Table, list[Row], list[Row]]:
    """The table, records and removals of a payload that decoded before."""
    table, former = _former(contract)
    columns = to_arrow(contract, [payload])
    return table, former.rows(columns.records), former.rows(columns.removed)


def _decode_product(contract: Contract, items: Sequence[Delivered], in_files: bool) -> list[Decoded]:
    try:
        return _decode_together(contract, items, in_files)
    except ValueError as wrong:
        if len(items) == 1:
            return [Decoded.none(items[0], malformed(f"its records do not decode: {wrong}"))]
    except InvalidInput as wrong:
        return [Decoded.none(item, malformed(str(wrong))) for item in items]
    # One bad batch must not take the others with it.
    return [outcome for item in items for outcome in _decode_product(contract, [item], in_files)]


def _decode_together(contract: Contract, items: Sequence[Delivered], in_files: bool) -> list[Decoded]:
    table, former = _former(contract)
    columns = to_arrow(contract, [item.batch.payload for item in items])
    chunk = Chunk(table, former, columns.records)
    # What cannot be written must show here, where one batch can be told from the others.
    chunk.form(in_files)
    removed = former.rows(columns.removed)
    outcomes = []
    record, removal = 0, 0
    for index, item in enumerate(items):
        last_record, last_removal = (
            record + columns.record_counts[index],
            removal + columns.removed_counts[index],
        )
        refused = _wrong_count(item, columns.count(index))
        outcomes.append(Decoded(item, chunk, record, last_record, removed[removal:last_removal], refused))
        record, removal = last_record, last_removal
    return outcomes


def _wrong_count(item: Delivered, count: int) -> BatchRefused | None:
    if count == item.header.record_count:
        return None
    return malformed(f"its header says {item.header.record_count} records and its payload holds {count}")


def malformed(detail: str) -> BatchRefused:
    """The refusal of a batch that cannot be stored as it is."""
    return BatchRefused(RefusalReason.REFUSAL_REASON_MALFORMED, detail)


@lru_cache(maxsize=1_024)
def _former(contract: Contract) -> tuple[Table, Former]:
    table = table_of(contract)
    return table, Former(table)
