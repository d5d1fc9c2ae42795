"""Decodes a group of delivered batches into rows, many batches of a product at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from services.writer.rows import RowMaker
from services.writer.tables import Table, table_of
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.consume.columns import to_arrow
from telltale.consume.delivered import Delivered
from telltale.contract.product import Contract
from telltale.errors import BatchRefused, InvalidInput

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Decoded:
    """A batch as rows, in the order of its table's columns; or why it is none."""

    item: Delivered
    table: Table | None
    records: Sequence[Row]
    removed: Sequence[Row]
    refused: BatchRefused | None


def decode(items: Sequence[Delivered]) -> list[Decoded]:
    """Decodes batches and keeps their order. What does not decode comes back refused."""
    by_contract: dict[Contract, list[int]] = {}
    decoded: dict[int, Decoded] = {}
    for index, item in enumerate(items):
        if item.refused is not None or item.contract is None:
            decoded[index] = Decoded(item, None, (), (), item.refused or _malformed("it has no contract"))
        else:
            by_contract.setdefault(item.contract, []).append(index)
    for contract, indices in by_contract.items():
        outcomes = _decode_product(contract, [items[index] for index in indices])
        decoded.update(zip(indices, outcomes, strict=True))
    return [decoded[index] for index in range(len(items))]


def decode_payload(contract: Contract, payload: bytes) -> tuple[Table, list[Row], list[Row]]:
    """The table, records and removals of a payload that decoded before."""
    table, rows = _row_maker(contract)
    columns = to_arrow(contract, [payload])
    return (
        table,
        list(zip(*rows.columns(columns.records), strict=True)),
        list(zip(*rows.columns(columns.removed), strict=True)),
    )


def _decode_product(contract: Contract, items: Sequence[Delivered]) -> list[Decoded]:
    try:
        return _decode_together(contract, items)
    except ValueError as wrong:
        if len(items) == 1:
            return [Decoded(items[0], None, (), (), _malformed(f"its records do not decode: {wrong}"))]
    except InvalidInput as wrong:
        return [Decoded(item, None, (), (), _malformed(str(wrong))) for item in items]
    # One bad batch must not take the others with it.
    return [outcome for item in items for outcome in _decode_product(contract, [item])]


def _decode_together(contract: Contract, items: Sequence[Delivered]) -> list[Decoded]:
    table, rows = _row_maker(contract)
    columns = to_arrow(contract, [item.batch.payload for item in items])
    records = list(zip(*rows.columns(columns.records), strict=True))
    removed = list(zip(*rows.columns(columns.removed), strict=True))
    outcomes = []
    record, removal = 0, 0
    for index, item in enumerate(items):
        last_record, last_removal = (
            record + columns.record_counts[index],
            removal + columns.removed_counts[index],
        )
        refused = _wrong_count(item, columns.count(index))
        outcomes.append(
            Decoded(item, table, records[record:last_record], removed[removal:last_removal], refused)
        )
        record, removal = last_record, last_removal
    return outcomes


def _wrong_count(item: Delivered, count: int) -> BatchRefused | None:
    if count == item.header.record_count:
        return None
    return _malformed(f"its header says {item.header.record_count} records and its payload holds {count}")


def _malformed(detail: str) -> BatchRefused:
    return BatchRefused(RefusalReason.REFUSAL_REASON_MALFORMED, detail)


@lru_cache(maxsize=1_024)
def _row_maker(contract: Contract) -> tuple[Table, RowMaker]:
    table = table_of(contract)
    return table, RowMaker(table)
