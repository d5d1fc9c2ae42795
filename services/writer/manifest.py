"""The manifest of files: which of them are the history of a product, and all SQL on that."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from services.writer import sql
from services.writer.tables import Table

SCHEMA = (
    # Rows `first_row` to `last_row` of a product are those of the file. Of a product's files that were not
    # removed no two overlap.
    """CREATE TABLE IF NOT EXISTS files (
        file TEXT PRIMARY KEY, product TEXT NOT NULL, first_row BIGINT NOT NULL, last_row BIGINT NOT NULL,
        merges BIGINT NOT NULL, bytes BIGINT NOT NULL, sha256 TEXT NOT NULL,
        first_received_time TIMESTAMP NOT NULL, last_received_time TIMESTAMP NOT NULL,
        made_time TIMESTAMP NOT NULL, removed_time TIMESTAMP, damage TEXT)""",
    "CREATE INDEX IF NOT EXISTS files_by_row ON files (product, first_row)",
    # What SQLite keeps itself of products whose records are rows.
    """CREATE TABLE IF NOT EXISTS columns (
        product TEXT NOT NULL, place BIGINT NOT NULL, name TEXT NOT NULL, declared TEXT NOT NULL,
        PRIMARY KEY (product, name))""",
    # Files do not change: the verdict on what they hold is kept beside them.
    """CREATE TABLE IF NOT EXISTS distrusted (
        product TEXT NOT NULL, source TEXT NOT NULL, epoch BIGINT NOT NULL, sequence BIGINT NOT NULL,
        PRIMARY KEY (product, source, epoch, sequence))""",
)


@dataclass(frozen=True)
class File:
    """A row of the manifest. Times as the database has them."""

    file: str
    product: str
    first_row: int
    last_row: int
    # How often its oldest rows were merged.
    merges: int
    bytes: int
    sha256: str
    first_received_time: str
    last_received_time: str
    made_time: str
    # It was merged into another or is past its retention; readers that began before may still have it open.
    removed_time: str | None = None
    # What is wrong with it; its rows are left out of every answer.
    damage: str | None = None


_COLUMNS = tuple(field.name for field in fields(File))


def declare(connection: sqlite3.Connection, product: str, columns: Iterable[tuple[str, str]]) -> None:
    """Adds columns to a product whose records go into files."""
    place = len(columns_of(connection, product))
    for number, (name, declared) in enumerate(columns, place + 1):
        values = {"product": product, "place": number, "name": name, "declared": declared}
        sql.insert_new(connection, "columns", values)


def columns_of(connection: sqlite3.Connection, product: str) -> dict[str, str]:
    """Declared types by name; empty when the product's records are not in files."""
    return dict(
        sql.select(connection, "columns", ("name", "declared"), {"product": product}, "ORDER BY place")
    )


def declarations(table: Table) -> list[tuple[str, str]]:
    """Columns of a product's new table: its record's, then where each row comes from."""
    return [
        *((column.name, column.form.sql) for column in table.columns),
        *sql.PROVENANCE,
        ("_row", "BIGINT"),
    ]


def last_row(connection: sqlite3.Connection, product: str) -> int:
    return sql.select(connection, "files", ("coalesce(max(last_row), 0)",), {"product": product})[0][0] or 0


def add(connection: sqlite3.Connection, file: File) -> None:
    sql.insert_new(connection, "files", {name: getattr(file, name) for name in _COLUMNS})


def named(connection: sqlite3.Connection) -> list[File]:
    """Every file that the manifest names, also those that were removed."""
    return [File(*row) for row in sql.select(connection, "files", _COLUMNS, {})]


def names_file(connection: sqlite3.Connection, name: str) -> bool:
    return bool(sql.select(connection, "files", ("file",), {"file": name}))


def current(connection: sqlite3.Connection, product: str) -> list[File]:
    """The files that are a product's history, in the order of their rows; none that is damaged."""
    where = {"product": product, "removed_time": None, "damage": None}
    return [File(*row) for row in sql.select(connection, "files", _COLUMNS, where, "ORDER BY first_row")]


def replace(connection: sqlite3.Connection, old: Iterable[File], new: File) -> bool:
    """Puts one file in the place of others, unless one of those is no longer current."""
    old = list(old)
    if not set(old) <= set(current(connection, new.product)):
        return False
    for file in old:
        remove(connection, file, new.made_time)
    add(connection, new)
    return True


def remove(connection: sqlite3.Connection, file: File, now: str) -> None:
    """From this commit on the file is no part of the history; the file itself goes later."""
    sql.update(connection, "files", {"file": file.file}, {"removed_time": now})


def damaged(connection: sqlite3.Connection, file: File, fault: str | None) -> None:
    """Leaves a file out of the history, or takes it back."""
    sql.update(connection, "files", {"file": file.file}, {"damage": fault})


def removed_before(connection: sqlite3.Connection, before: str) -> list[str]:
    found = connection.execute("SELECT file FROM files WHERE removed_time < ?", (before,))
    return [name for (name,) in found]


def forget(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    """The files are gone."""
    connection.executemany("DELETE FROM files WHERE file = ?", [(name,) for name in names])


def oldest(connection: sqlite3.Connection, product: str, before: str, limit: int) -> list[File]:
    """Files whose last batch was received before a time, damaged ones too."""
    found = connection.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM files WHERE product = ? AND removed_time IS NULL"
        " AND last_received_time < ? ORDER BY first_row LIMIT ?",
        (product, before, limit),
    )
    return [File(*row) for row in found]


def batches_in(connection: sqlite3.Connection, file: File) -> list[tuple[str, int, int]]:
    """Source, epoch and sequence of every batch whose records the file holds."""
    return connection.execute(
        "SELECT source, epoch, sequence FROM batches WHERE product = ? AND received_time <= ?"
        " AND first_row BETWEEN ? AND ?",
        (file.product, file.last_received_time, file.first_row, file.last_row),
    ).fetchall()


def distrust(connection: sqlite3.Connection, product: str, batch: dict[str, Any]) -> bool:
    """Gives a batch's rows another verdict; returns whether they had one that was different."""
    identity = {"product": product, **{name: batch[name] for name in ("source", "epoch", "sequence")}}
    return sql.insert_new(connection, "distrusted", identity)
