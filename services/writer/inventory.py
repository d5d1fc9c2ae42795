"""Keeps an inventory's current table and its history in step with deltas and snapshots.

A snapshot applies at its end mark, with the deltas that came in between; one that misses a part is discarded.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from services.writer import sql
from services.writer.decoding import Decoded, Row, decode_payload
from services.writer.provenance import Provenance
from services.writer.tables import Table
from telltale.contract.schema import Schema

# Parts and bytes of one source's unfinished snapshot. Beyond that it is not kept, and cannot apply.
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

    def take(self, connection: sqlite3.Connection, table: str, count: int) -> int:
        """The first of `count` new numbers."""
        last = self._last.get(table)
        if last is None:
            last = sql.last_row(connection, table)
        self._last[table] = last + count
        return last + 1


@dataclass(frozen=True)
class _Part:
    """One batch of a snapshot, or a delta that came in the middle of one."""

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

    def apply(self, decoded: Decoded, table: Table, provenance: Provenance, *, follows: bool) -> int:
        """Applies one batch and returns how many changes the history got.

        `follows`: nothing is missing directly before it in its chain.
        """
        header = decoded.item.header
        part = _Part(table, decoded.records, decoded.removed, provenance)
        snapshot = header.snapshot.id if header.HasField("snapshot") else None
        opened = self._opened()
        if opened is not None and (opened[0] != header.epoch or snapshot not in (None, opened[1])):
            self.discard()
            opened = None
        if not follows and (opened is not None or snapshot is not None):
            opened = self.break_off(header.epoch, header.sequence, snapshot or (opened or (0, ""))[1])
        if snapshot is None:
            self._delta(part)
        if opened is not None or (snapshot is not None and not header.snapshot.end):
            name = snapshot if snapshot is not None else (opened or (0, ""))[1]
            self._stage(decoded, provenance, name)
        if snapshot is not None and header.snapshot.end:
            self._end(part if opened is None else None)
        return self._changes

    def discard(self) -> None:
        """Forgets the unfinished snapshot."""
        sql.delete(self._connection, "snapshots", self._key)

    def break_off(self, epoch: int, sequence: int, snapshot: str) -> tuple[int, str]:
        """Marks a snapshot as one that misses a part: its end will change nothing."""
        self.discard()
        marker = {
            **self._key, "epoch": epoch, "sequence": sequence - 1, "snapshot": snapshot, "whole": False,
            "schema_sha256": "", "log": "", "offset": 0, "received_time": "", "verified": "", "origin": "",
            "payload": b"",
        }  # fmt: skip
        sql.insert_new(self._connection, "snapshots", marker)
        return epoch, snapshot

    def _opened(self) -> tuple[int, str] | None:
        rows = sql.select(self._connection, "snapshots", ("epoch", "snapshot"), self._key, "LIMIT 1")
        return (rows[0][0], rows[0][1]) if rows else None

    def _stage(self, decoded: Decoded, provenance: Provenance, snapshot: str) -> None:
        header = decoded.item.header
        count, size, whole = sql.select(
            self._connection,
            "snapshots",
            ("count(*)", "coalesce(sum(length(payload)), 0)", "coalesce(min(whole), 1)"),
            self._key,
        )[0]
        if not whole:
            return
        if count >= _MAX_PARTS or size + len(decoded.item.batch.payload) > _MAX_BYTES:
            self.break_off(header.epoch, header.sequence, snapshot)
            return
        staged = {
            **self._key,
            "epoch": header.epoch,
            "sequence": header.sequence,
            "snapshot": snapshot,
            "whole": True,
            "schema_sha256": header.schema_sha256.hex(),
            "log": provenance.log,
            "offset": provenance.offset,
            "received_time": provenance.received_time,
            "verified": provenance.verified,
            "origin": provenance.origin,
            "replay_run": provenance.replay_run,
            "payload": decoded.item.batch.payload,
        }
        sql.insert_new(self._connection, "snapshots", staged)

    def _end(self, only: _Part | None) -> None:
        parts = [only] if only is not None else self._staged()
        self.discard()
        state: dict[str, tuple[_Part, Row]] = {}
        for part in parts:
            for row in part.records:
                state[_key_of(part.table, row)] = (part, row)
            for row in part.removed:
                state.pop(_key_of(part.table, row), None)
        if not parts:
            return
        last = parts[-1]
        for key in sql.current_keys(self._connection, last.table.name, last.provenance.source):
            if key not in state:
                self._remove(last, key)
        for key, (part, row) in state.items():
            self._put(part, key, row)

    def _staged(self) -> list[_Part]:
        """The parts of the snapshot in their order; none when it is not whole."""
        rows = sql.select(
            self._connection,
            "snapshots",
            (
                "whole", "schema_sha256", "payload", "source", "epoch", "sequence", "log", "offset",
                "received_time", "verified", "origin", "replay_run",
            ),
            self._key,
            "ORDER BY sequence",
        )  # fmt: skip
        if not all(row[0] for row in rows):
            return []
        return [self._part(digest, payload, Provenance(*rest)) for _, digest, payload, *rest in rows]

    def _part(self, digest: str, payload: bytes, provenance: Provenance) -> _Part:
        ((data,),) = sql.select(self._connection, "schemas", ("file_descriptor_set",), {"sha256": digest})
        contract = Schema.parse(data).contract(self._key["product"])
        return _Part(*decode_payload(contract, payload), provenance)

    def _delta(self, part: _Part) -> None:
        for row in part.removed:
            self._remove(part, _key_of(part.table, row))
        for row in part.records:
            self._put(part, _key_of(part.table, row), row)

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
