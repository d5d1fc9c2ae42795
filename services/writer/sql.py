"""The writer's SQL: the mesh's own tables, the products' tables, and statements on them.

What concerns files is in manifest.py.
Names of the mesh's own tables have no underscore and a product's table always has one, so they never meet.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from services.writer.tables import Table, quoted

# What every row carries besides its record. docs/database.md explains each.
PROVENANCE: tuple[tuple[str, str], ...] = (
    ("_source", "TEXT"),
    ("_epoch", "BIGINT"),
    ("_sequence", "BIGINT"),
    ("_log", "TEXT"),
    ("_offset", "BIGINT"),
    ("_received_time", "TIMESTAMP"),
    ("_verified", "TEXT"),
    ("_origin", "TEXT"),
    ("_replay_run", "TEXT"),
)
PROVENANCE_NAMES = tuple(name for name, _ in PROVENANCE)

# No table is WITHOUT ROWID: DuckDB counts rows of SQLite by their ROWID.
SCHEMA = (
    """CREATE TABLE IF NOT EXISTS cursors (
        product TEXT NOT NULL, log TEXT NOT NULL, "offset" BIGINT NOT NULL, updated_time TIMESTAMP NOT NULL,
        PRIMARY KEY (product, log))""",
    """CREATE TABLE IF NOT EXISTS products (
        product TEXT PRIMARY KEY, table_name TEXT NOT NULL UNIQUE, history_table TEXT,
        store TEXT NOT NULL DEFAULT 'ROWS',
        time_column TEXT NOT NULL, kind TEXT NOT NULL, owner TEXT NOT NULL, support TEXT NOT NULL,
        version TEXT NOT NULL, status TEXT NOT NULL, purpose TEXT NOT NULL, limitations TEXT NOT NULL,
        classification TEXT NOT NULL,
        freshness_seconds DOUBLE NOT NULL, retention_seconds DOUBLE NOT NULL, schema_sha256 TEXT NOT NULL,
        first_stored_time TIMESTAMP, last_received_time TIMESTAMP,
        batches BIGINT NOT NULL DEFAULT 0, records BIGINT NOT NULL DEFAULT 0)""",
    """CREATE TABLE IF NOT EXISTS chains (
        product TEXT NOT NULL, source TEXT NOT NULL, epoch BIGINT NOT NULL, sequence BIGINT NOT NULL,
        header_sha256 TEXT NOT NULL, pruned_sequence BIGINT NOT NULL DEFAULT 0,
        after_gap BOOLEAN NOT NULL DEFAULT 0,
        last_sealed_time TIMESTAMP NOT NULL, last_received_time TIMESTAMP NOT NULL,
        PRIMARY KEY (product, source))""",
    """CREATE TABLE IF NOT EXISTS batches (
        product TEXT NOT NULL, source TEXT NOT NULL, epoch BIGINT NOT NULL, sequence BIGINT NOT NULL,
        header_sha256 TEXT NOT NULL, log TEXT NOT NULL, "offset" BIGINT NOT NULL,
        received_time TIMESTAMP NOT NULL, sealed_time TIMESTAMP NOT NULL, records BIGINT NOT NULL,
        first_row BIGINT, last_row BIGINT, replay_run TEXT,
        PRIMARY KEY (product, source, epoch, sequence))""",
    "CREATE INDEX IF NOT EXISTS batches_by_age ON batches (product, received_time)",
    """CREATE TABLE IF NOT EXISTS gaps (
        product TEXT NOT NULL, log TEXT NOT NULL, after_offset BIGINT NOT NULL, reason TEXT NOT NULL,
        resumed_log TEXT, resumed_offset BIGINT, noticed_time TIMESTAMP NOT NULL,
        PRIMARY KEY (product, log, after_offset))""",
    """CREATE TABLE IF NOT EXISTS holes (
        product TEXT NOT NULL, source TEXT NOT NULL, epoch BIGINT NOT NULL, first_sequence BIGINT NOT NULL,
        last_sequence BIGINT NOT NULL, records BIGINT, reason TEXT NOT NULL,
        noticed_in_sequence BIGINT NOT NULL, noticed_time TIMESTAMP NOT NULL,
        PRIMARY KEY (product, source, epoch, first_sequence, last_sequence))""",
    """CREATE TABLE IF NOT EXISTS losses (
        product TEXT NOT NULL, source TEXT NOT NULL, epoch BIGINT NOT NULL, sequence BIGINT NOT NULL,
        place BIGINT NOT NULL, records BIGINT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
        received_time TIMESTAMP NOT NULL,
        PRIMARY KEY (product, source, epoch, sequence, place))""",
    """CREATE TABLE IF NOT EXISTS quarantine (
        id INTEGER PRIMARY KEY, product TEXT NOT NULL, source TEXT NOT NULL, epoch BIGINT NOT NULL,
        sequence BIGINT NOT NULL, log TEXT NOT NULL, "offset" BIGINT NOT NULL, reason TEXT NOT NULL,
        detail TEXT NOT NULL, signed BOOLEAN NOT NULL, header BLOB NOT NULL, signature BLOB NOT NULL,
        payload BLOB NOT NULL, payload_bytes BIGINT NOT NULL, header_sha256 TEXT NOT NULL,
        received_time TIMESTAMP NOT NULL, quarantined_time TIMESTAMP NOT NULL,
        UNIQUE (header_sha256, reason, log, "offset"))""",
    """CREATE TABLE IF NOT EXISTS schemas (
        sha256 TEXT PRIMARY KEY, products TEXT NOT NULL, file_descriptor_set BLOB NOT NULL,
        first_stored_time TIMESTAMP NOT NULL)""",
    # Parts of snapshots whose end has not come.
    """CREATE TABLE IF NOT EXISTS staged (
        product TEXT NOT NULL, source TEXT NOT NULL, epoch BIGINT NOT NULL, sequence BIGINT NOT NULL,
        snapshot TEXT NOT NULL, schema_sha256 TEXT NOT NULL, log TEXT NOT NULL,
        "offset" BIGINT NOT NULL, received_time TIMESTAMP NOT NULL, verified TEXT NOT NULL,
        origin TEXT NOT NULL, replay_run TEXT, payload BLOB NOT NULL,
        PRIMARY KEY (product, source, epoch, sequence))""",
)


def upgrade(connection: sqlite3.Connection) -> None:
    """Gives a database of an earlier version what its tables lack."""
    if "store" not in columns_of(connection, "products"):
        add_column(connection, "products", "store", "TEXT NOT NULL DEFAULT 'ROWS'")


# The products' tables


def columns_of(connection: sqlite3.Connection, table: str) -> dict[str, str]:
    """Declared types of a table's columns by name; empty when there is no such table."""
    return {row[1]: row[2] for row in connection.execute(f"PRAGMA table_info({quoted(table)})")}


def schema_bytes(connection: sqlite3.Connection, prefix: str) -> int:
    """Bytes of all kept schemas whose first product begins so."""
    # SQLite knows the length of a blob without reading it.
    found = connection.execute(
        "SELECT coalesce(sum(length(file_descriptor_set)), 0) FROM schemas"
        " WHERE substr(json_extract(products, '$[0]'), 1, ?) = ?",
        (len(prefix), prefix),
    ).fetchone()
    return int(found[0])


def create_log_table(connection: sqlite3.Connection, table: Table) -> None:
    """The table of records, or of an inventory's changes: rows are only added, and removed by retention."""
    declared = ["_row INTEGER PRIMARY KEY", *_declared(table), *_provenance()]
    if table.history is not None:
        declared[1:1] = ["_change TEXT NOT NULL", "_key TEXT NOT NULL"]
    connection.execute(f"CREATE TABLE {quoted(table.log)} ({', '.join(declared)})")
    index = quoted(f"{table.log}_by_{table.time_column}")
    connection.execute(f"CREATE INDEX {index} ON {quoted(table.log)} ({quoted(table.time_column)})")


def create_current_table(connection: sqlite3.Connection, table: Table) -> None:
    """An inventory's current state."""
    declared = [*_declared(table), "_key TEXT NOT NULL", *_provenance(), "PRIMARY KEY (_source, _key)"]
    connection.execute(f"CREATE TABLE {quoted(table.name)} ({', '.join(declared)})")


def drop_table(connection: sqlite3.Connection, table: str) -> None:
    connection.execute(f"DROP TABLE IF EXISTS {quoted(table)}")


def add_column(connection: sqlite3.Connection, table: str, column: str, declared: str) -> None:
    connection.execute(f"ALTER TABLE {quoted(table)} ADD COLUMN {quoted(column)} {declared}")


def last_row(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT coalesce(max(_row), 0) FROM {quoted(table)}").fetchone()[0])


def insert_rows(
    connection: sqlite3.Connection, table: str, columns: tuple[str, ...], rows: Iterable[Sequence[Any]]
) -> None:
    """Adds rows whose values are in the order of `columns`."""
    connection.executemany(_insert("INSERT", table, columns), rows)


def replace_row(
    connection: sqlite3.Connection, table: str, columns: tuple[str, ...], row: Sequence[Any]
) -> None:
    """Puts a row in the place of the one with its key; columns that are not named become NULL."""
    connection.execute(_insert("INSERT OR REPLACE", table, columns), row)


def current_row(
    connection: sqlite3.Connection, table: str, columns: Sequence[str], source: str, key: str
) -> tuple[Any, ...] | None:
    names = ", ".join(quoted(column) for column in columns)
    found: tuple[Any, ...] | None = connection.execute(
        f"SELECT {names} FROM {quoted(table)} WHERE _source = ? AND _key = ?", (source, key)
    ).fetchone()
    return found


def current_keys(connection: sqlite3.Connection, table: str, source: str) -> list[str]:
    rows = connection.execute(f"SELECT _key FROM {quoted(table)} WHERE _source = ? ORDER BY _key", (source,))
    return [key for (key,) in rows]


def delete_current(connection: sqlite3.Connection, table: str, source: str, key: str) -> None:
    connection.execute(f"DELETE FROM {quoted(table)} WHERE _source = ? AND _key = ?", (source, key))


def delete_rows(connection: sqlite3.Connection, table: str, first: int, last: int) -> int:
    return connection.execute(
        f"DELETE FROM {quoted(table)} WHERE _row BETWEEN ? AND ?", (first, last)
    ).rowcount


def upsert(connection: sqlite3.Connection, table: str, keys: Sequence[str], values: dict[str, Any]) -> None:
    """Inserts a row of one of the mesh's own tables, or changes the one with the same key."""
    changes = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in values if name not in keys)
    statement = _insert("INSERT", table, tuple(values))
    conflict = ", ".join(quoted(key) for key in keys)
    connection.execute(
        f"{statement} ON CONFLICT ({conflict}) DO UPDATE SET {changes}", tuple(values.values())
    )


def insert_new(connection: sqlite3.Connection, table: str, values: dict[str, Any]) -> bool:
    """Inserts a row of one of the mesh's own tables unless it is there; returns whether it was new."""
    statement = _insert("INSERT OR IGNORE", table, tuple(values))
    return connection.execute(statement, tuple(values.values())).rowcount == 1


def select(
    connection: sqlite3.Connection, table: str, columns: Sequence[str], where: dict[str, Any], end: str = ""
) -> list[tuple[Any, ...]]:
    """Columns, or aggregates, of rows of one of the mesh's own tables that equal `where`."""
    statement = _select(table, tuple(columns), tuple(where), end)
    return connection.execute(statement, tuple(where.values())).fetchall()


def update(connection: sqlite3.Connection, table: str, where: dict[str, Any], values: dict[str, Any]) -> None:
    """Changes the rows of one of the mesh's own tables whose columns equal the values of `where`."""
    changes = ", ".join(f"{quoted(name)} = ?" for name in values)
    connection.execute(f"UPDATE {table} SET {changes}{_where(where)}", (*values.values(), *where.values()))


def delete(connection: sqlite3.Connection, table: str, where: dict[str, Any]) -> int:
    """Deletes rows of one of the mesh's own tables."""
    return connection.execute(f"DELETE FROM {table}{_where(where)}", tuple(where.values())).rowcount


def count_stored(
    connection: sqlite3.Connection, product: str, batches: int, records: int, received_time: str
) -> None:
    connection.execute(
        "UPDATE products SET batches = batches + ?, records = records + ?,"
        " last_received_time = max(coalesce(last_received_time, ''), ?) WHERE product = ?",
        (batches, records, received_time, product),
    )


def mark_gap(connection: sqlite3.Connection, product: str) -> None:
    """Every chain of the product may skip once."""
    connection.execute("UPDATE chains SET after_gap = 1 WHERE product = ?", (product,))


def advance_chain(connection: sqlite3.Connection, chain: dict[str, Any]) -> None:
    """Moves a chain's head. A new epoch has nothing pruned."""
    statement = _insert("INSERT", "chains", tuple(chain))
    connection.execute(
        f"{statement} ON CONFLICT (product, source) DO UPDATE SET"
        " pruned_sequence = iif(epoch = excluded.epoch, pruned_sequence, 0), after_gap = 0,"
        " epoch = excluded.epoch, sequence = excluded.sequence, header_sha256 = excluded.header_sha256,"
        " last_sealed_time = excluded.last_sealed_time, last_received_time = excluded.last_received_time",
        tuple(chain.values()),
    )


def unexplained(
    connection: sqlite3.Connection, chain: dict[str, Any], first: int, last: int
) -> list[dict[str, Any]]:
    """Holes of a chain that nobody declared and that overlap a range of sequences."""
    found = connection.execute(
        "SELECT * FROM holes WHERE product = :product AND source = :source AND epoch = :epoch"
        " AND reason IN ('UNDECLARED', 'GAP') AND first_sequence <= :last AND last_sequence >= :first",
        {**chain, "first": first, "last": last},
    )
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]


def old_batches(
    connection: sqlite3.Connection, product: str, before: str, limit: int, *, empty: bool
) -> list[tuple[str, int, int, int | None, int | None]]:
    """Oldest batches received before a time: source, epoch, sequence, first and last row.

    empty: only those that added no row.
    """
    return connection.execute(
        "SELECT source, epoch, sequence, first_row, last_row FROM batches"
        f" WHERE product = ? AND received_time < ? {'AND first_row IS NULL' if empty else ''}"
        " ORDER BY received_time LIMIT ?",
        (product, before, limit),
    ).fetchall()


class Sealed(NamedTuple):
    """What a source sealed from a time until before another; times as the database has them."""

    source: str
    since: str
    until: str


def batches_sealed(
    connection: sqlite3.Connection, product: str, sealed: Sealed, after: tuple[int, int], limit: int
) -> list[dict[str, Any]]:
    """Batches of a source's chain, after one of them."""
    found = connection.execute(
        "SELECT * FROM batches WHERE product = ? AND source = ? AND sealed_time >= ? AND sealed_time < ?"
        " AND (epoch, sequence) > (?, ?) ORDER BY epoch, sequence LIMIT ?",
        (product, *sealed, *after, limit),
    )
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]


def mark_rows(connection: sqlite3.Connection, table: str, first: int, last: int, mark: str) -> int:
    """Gives rows another verdict; returns how many had a different one."""
    return connection.execute(
        f"UPDATE {quoted(table)} SET _verified = ? WHERE _row BETWEEN ? AND ? AND _verified IS NOT ?",
        (mark, first, last, mark),
    ).rowcount


def mark_current(connection: sqlite3.Connection, table: str, product: str, sealed: Sealed, mark: str) -> None:
    """Gives an inventory's current rows another verdict, and forgets the parts of an unfinished snapshot."""
    among = (
        "IN (SELECT epoch, sequence FROM batches WHERE product = ? AND source = ?"
        " AND sealed_time >= ? AND sealed_time < ?)"
    )
    connection.execute(
        f"UPDATE {quoted(table)} SET _verified = ? WHERE _source = ? AND _verified IS NOT ?"
        f" AND (_epoch, _sequence) {among}",
        (mark, sealed.source, mark, product, *sealed),
    )
    connection.execute(
        f"DELETE FROM staged WHERE product = ? AND source = ? AND (epoch, sequence) {among}",
        (product, sealed.source, product, *sealed),
    )


def mark_pruned(connection: sqlite3.Connection, product: str, source: str, epoch: int, sequence: int) -> None:
    connection.execute(
        "UPDATE chains SET pruned_sequence = max(pruned_sequence, ?)"
        " WHERE product = ? AND source = ? AND epoch = ?",
        (sequence, product, source, epoch),
    )


def prune_older(
    connection: sqlite3.Connection, table: str, column: str, product: str, before: str, limit: int
) -> int:
    """Deletes a bounded number of a product's old rows from one of the mesh's own tables."""
    return connection.execute(
        f"DELETE FROM {table} WHERE rowid IN"
        f" (SELECT rowid FROM {table} WHERE product = ? AND {column} < ? LIMIT ?)",
        (product, before, limit),
    ).rowcount


def prune_quarantine(connection: sqlite3.Connection, keep: int) -> int:
    return connection.execute(
        "DELETE FROM quarantine WHERE id <= (SELECT max(id) FROM quarantine) - ?", (keep,)
    ).rowcount


@lru_cache(maxsize=4_096)
def _insert(verb: str, table: str, columns: tuple[str, ...]) -> str:
    names = ", ".join(quoted(column) for column in columns)
    return f"{verb} INTO {quoted(table)} ({names}) VALUES ({', '.join('?' * len(columns))})"


@lru_cache(maxsize=4_096)
def _select(table: str, columns: tuple[str, ...], where: tuple[str, ...], end: str) -> str:
    names = ", ".join(column if "(" in column else quoted(column) for column in columns)
    return f"SELECT {names} FROM {table}{_where(where)} {end}"


def _where(where: Iterable[str]) -> str:
    return " WHERE " + " AND ".join(f"{quoted(name)} IS ?" for name in where) if where else ""


def _declared(table: Table) -> list[str]:
    return [f"{quoted(column.name)} {column.form.sql}" for column in table.columns]


def _provenance() -> list[str]:
    return [f"{name} {declared}" for name, declared in PROVENANCE]
