"""Keeps an inventory's current table and its history in step with deltas and snapshots.

A snapshot applies as a whole, at its end mark; it is discarded when it lacks a part or a delta interrupts it.
"""

import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from services.writer import sql
from services.writer.decoding import Decoded, Row, decode_payload
from services.writer.provenance import Provenance
from services.writer.tables import Table
from telltale.contract.product import Contract
from telltale.contract.schema import Schema

# Parts and bytes of one source's unfinished snapshot. Beyond that it is given up.
_MAX_PARTS = 256
_MAX_BYTES = 64 << 20

UPSERT = "UPSERT"
DELETE = "DELETE"


class RowNumbers:
    """Numbers the rows of tables that only grow. Forget everything after a rollback."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def forget(self) -> None:
        self._last.clear()

    def take(
        self,
        connection: sqlite3.Connection,
        table: str,
        count: int,
        last_row: Callable[[sqlite3.Connection, str], int] = sql.last_row,
    ) -> int:
        """The first of `count` new numbers. last_row: finds the last one that the history holds."""
        last = self._last.get(table)
        if last is None:
            last = last_row(connection, table)
        self._last[table] = last + count
        return last + 1


@dataclass(frozen=True)
class _Part:
    """One batch of an inventory: a delta, or a part of a snapshot."""

    table: Table
    records: Sequence[Row]
    removed: Sequence[Row]
    provenance: Provenance


class Inventory:
    """One inventory of one source, within a transaction."""

    def __init__(
        self, connection: sqlite3.Connection, numbers: RowNumbers, product: str, source: str
    ) -> None:
        self._connection = connection
        self._numbers = numbers
        self._key = {"product": product, "source": source}
        self._changes = 0

    def apply(self, decoded: Decoded, table: Table, provenance: Provenance) -> int:
        """Applies one batch and returns how many changes the history got."""
        header = decoded.item.header
        part = _Part(table, decoded.records, decoded.removed, provenance)
        if not header.HasField("snapshot"):
            # A delta in between means that the snapshot was given up.
            self._abandon()
            self._delta(part)
        elif not self._continues(decoded):
            # A part is missing: the rest of this snapshot is worth nothing.
            self._abandon()
        elif header.snapshot.end:
            self._replace([*self._staged(), part])
            self._abandon()
        else:
            self._stage(decoded, provenance)
        return self._changes

    def _continues(self, decoded: Decoded) -> bool:
        """Whether the batch is the next part of the snapshot that is being staged, or begins one."""
        header = decoded.item.header
        if header.snapshot.index == 0:
            self._abandon()
            return True
        columns = ("epoch", "snapshot", "count(*)", "coalesce(sum(length(payload)), 0)")
        epoch, snapshot, count, size = sql.select(self._connection, "staged", columns, self._key)[0]
        follows = (epoch, snapshot, count) == (header.epoch, header.snapshot.id, header.snapshot.index)
        return follows and count < _MAX_PARTS and size + len(decoded.item.batch.payload) <= _MAX_BYTES

    def _stage(self, decoded: Decoded, provenance: Provenance) -> None:
        header = decoded.item.header
        staged = {
            **self._key,
            "epoch": header.epoch,
            "sequence": header.sequence,
            "snapshot": header.snapshot.id,
            "schema_sha256": header.schema_sha256.hex(),
            "log": provenance.log,
            "offset": provenance.offset,
            "received_time": provenance.received_time,
            "verified": provenance.verified,
            "origin": provenance.origin,
            "replay_run": provenance.replay_run,
            "payload": decoded.item.batch.payload,
        }
        sql.insert_new(self._connection, "staged", staged)

    def _staged(self) -> list[_Part]:
        """The parts that have come, in their order."""
        rows = sql.select(
            self._connection,
            "staged",
            (
                "schema_sha256", "payload", "source", "epoch", "sequence", "log", "offset",
                "received_time", "verified", "origin", "replay_run",
            ),
            self._key,
            "ORDER BY sequence",
        )  # fmt: skip
        return [self._part(digest, payload, Provenance(*rest)) for digest, payload, *rest in rows]

    def _part(self, digest: str, payload: bytes, provenance: Provenance) -> _Part:
        ((data,),) = sql.select(self._connection, "schemas", ("file_descriptor_set",), {"sha256": digest})
        return _Part(*decode_payload(_contract(data, self._key["product"]), payload), provenance)

    def _abandon(self) -> None:
        sql.delete(self._connection, "staged", self._key)

    def _replace(self, parts: Sequence[_Part]) -> None:
        """Makes the parts of a whole snapshot the state. What a snapshot calls removed it simply lacks."""
        state = {_key_of(part.table, row): (part, row) for part in parts for row in part.records}
        last = parts[-1]
        for key in sql.current_keys(self._connection, last.table.name, last.provenance.source):
            if key not in state:
                self._remove(last, key)
        for key, (part, row) in state.items():
            self._put(part, key, row)

    def _delta(self, part: _Part) -> None:
        for row in part.records:
            self._put(part, _key_of(part.table, row), row)
        for row in part.removed:
            self._remove(part, _key_of(part.table, row))

    def _put(self, part: _Part, key: str, row: Row) -> None:
        table, source = part.table, part.provenance.source
        names = tuple(column.name for column in table.columns)
        before = sql.current_row(self._connection, table.name, names, source, key)
        if before is None or _without_time(table, before) != _without_time(table, row):
            self._record(part, UPSERT, key, names, row)
        sql.replace_row(
            self._connection,
            table.name,
            (*names, "_key", *sql.PROVENANCE_NAMES),
            (*row, key, *part.provenance.values),
        )

    def _remove(self, part: _Part, key: str) -> None:
        table, source = part.table, part.provenance.source
        names = tuple(column.name for column in table.columns)
        before = sql.current_row(self._connection, table.name, names, source, key)
        if before is not None:
            self._record(part, DELETE, key, names, before)
            sql.delete_current(self._connection, table.name, source, key)

    def _record(self, part: _Part, change: str, key: str, names: tuple[str, ...], row: Row) -> None:
        table = part.table.log
        number = self._numbers.take(self._connection, table, 1)
        columns = (*names, "_row", "_change", "_key", *sql.PROVENANCE_NAMES)
        sql.insert_rows(
            self._connection, table, columns, [(*row, number, change, key, *part.provenance.values)]
        )
        self._changes += 1


@lru_cache(maxsize=64)
def _contract(file_descriptor_set: bytes, product: str) -> Contract:
    # The parts of a snapshot share a schema, and compiling one takes milliseconds.
    return Schema.parse(file_descriptor_set).contract(product)


def _key_of(table: Table, row: Row) -> str:
    names = [column.name for column in table.columns]
    values = [row[names.index(column)] for column in table.key_columns]
    plain = [value.hex() if isinstance(value, bytes) else value for value in values]
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


def _without_time(table: Table, row: Row) -> list[object]:
    # Every look at an unchanged thing has another time; that alone is no change.
    return [
        value for column, value in zip(table.columns, row, strict=True) if column.name != table.time_column
    ]
