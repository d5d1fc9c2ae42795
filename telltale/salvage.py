"""A damaged SQLite file is made anew from what can still be read of it, and kept beside the new one.

SQLite finds damage in its own structure when it comes across it, which may be long after the file was opened.
So whoever notices leaves a mark, ends, and recovers at its next start.
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from telltale.errors import Damaged, Unavailable
from telltale.pages import Value, leaf_rows
from telltale.sqlite import Database, connect

# Looks at parts of one table that may fail: a damaged leaf costs a few, an inner page some thousands.
_MAX_FAILURES = 50_000
_MAX_ROWID = (1 << 63) - 1
# Rows of one commit of the new file.
_STEP = 1_000

# Is given the new file, and the stray rows of the damaged one when not all of it could be read by its tables.
Mend = Callable[[sqlite3.Connection, Iterable[tuple[int, tuple[Value, ...]]]], object]

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Salvaged:
    """What came over. unreadable: places where reading failed; rejected: rows that fit no table."""

    rows: int
    unreadable: int
    rejected: int
    kept: Path


def mark(path: Path) -> None:
    """Remembers that the file is damaged, for `recover_if_marked`. Blocks."""
    # On a full disk the mark is missing, and the damage is found again.
    with contextlib.suppress(OSError):
        _beside(path, "malformed").touch(0o600)


def recover_if_marked(path: Path, schema: Iterable[str], mend: Mend) -> Salvaged | None:
    """Goes on where an earlier recovery ended, or recovers a file that was marked. Blocks."""
    if _beside(path, "recovered").exists():
        _swap(path)
    if _beside(path, "malformed").exists():
        return recover(path, schema, mend)
    return None


async def open_or_recover(database: Database, path: Path, schema: Sequence[str], mend: Mend) -> None:
    """Opens a database, and recovers its file before that when it is damaged."""
    await asyncio.to_thread(recover_if_marked, path, schema, mend)
    try:
        await database.__aenter__()
    except Damaged:
        await asyncio.to_thread(recover, path, schema, mend)
        database.damaged.clear()
        await database.__aenter__()


def recover(path: Path, schema: Iterable[str], mend: Mend) -> Salvaged:
    """Puts a new file in the place of a damaged one, which stays beside it as `<name>.damaged`.

    mend: is run on the new file when all rows are there, for what follows from others. Interrupted anywhere,
    it begins or goes on at the next call. Raises Unavailable when there is no room for the new file. Blocks.
    """
    making = _beside(path, "recovering")
    for leftover in (making, _beside(making, "wal", "-"), _beside(making, "shm", "-")):
        leftover.unlink(missing_ok=True)
    try:
        salvaged = _copy(path, making, schema, mend)
        os.replace(making, _beside(path, "recovered"))
        _swap(path)
    except (OSError, sqlite3.Error) as failed:
        raise Unavailable(
            f"{path} is damaged and could not be recovered: {failed}; check the disk's space and health"
        ) from failed
    log.error("recovered a damaged file", file=str(path), rows=salvaged.rows, unreadable=salvaged.unreadable,
              rejected=salvaged.rejected, kept=str(salvaged.kept))  # fmt: skip
    return salvaged


def _copy(path: Path, making: Path, schema: Iterable[str], mend: Mend) -> Salvaged:
    rows = rejected = 0
    previous = os.umask(0o077)
    try:
        fresh = connect(making)
    finally:
        os.umask(previous)
    with contextlib.closing(fresh), contextlib.closing(_open_damaged(path)) as damaged:
        for statement in schema:
            fresh.execute(statement)
        walk = _Walk(damaged)
        tables = fresh.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid"
        ).fetchall()
        for (table,) in tables:
            if table.startswith("sqlite_"):
                continue
            columns = _columns(fresh, table)
            places = ", ".join("?" * len(columns))
            statement = f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES ({places})"
            fresh.execute("BEGIN")
            for row in walk.rows(table, columns):
                rows += 1
                try:
                    fresh.execute(statement, row)
                except sqlite3.IntegrityError:
                    # Of another type than its column, or nothing where something must be.
                    rejected += 1
                if rows % _STEP == 0:
                    fresh.execute("COMMIT")
                    fresh.execute("BEGIN")
            fresh.execute("COMMIT")
        fresh.execute("BEGIN")
        mend(fresh, leaf_rows(path) if walk.failures or rejected else ())
        fresh.execute("COMMIT")
        fresh.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Salvaged(rows - rejected, walk.failures, rejected, _beside(path, "damaged"))


def _open_damaged(path: Path) -> sqlite3.Connection:
    # For writing, or what is only in its write-ahead log would be missing. Nothing else is written.
    damaged = sqlite3.connect(path, isolation_level=None)
    damaged.text_factory = lambda text: text.decode(errors="replace")
    with contextlib.suppress(sqlite3.Error):
        # Reads on where the words of the schema are damaged themselves, and looks closely at each page.
        damaged.execute("PRAGMA writable_schema = ON")
        damaged.execute("PRAGMA cell_size_check = ON")
        # Page by page into the file itself: it looks into none of them.
        damaged.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return damaged


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    """All columns, and the row number where none of them is it."""
    described = db.execute(f"PRAGMA table_info({table})").fetchall()
    keys = [kind for _, _, kind, _, _, key in described if key]
    return [*([] if keys == ["INTEGER"] else ["rowid"]), *(column[1] for column in described)]


class _Walk:
    """Reads tables by ranges of row numbers, around what cannot be read."""

    def __init__(self, damaged: sqlite3.Connection) -> None:
        self._damaged = damaged
        self.failures = 0

    def rows(self, table: str, columns: list[str]) -> Iterator[tuple[object, ...]]:
        """Rows in no order; None for a column that the table does not have."""
        try:
            there = {column[1] for column in self._damaged.execute(f"PRAGMA table_info({table})")}
        except sqlite3.DatabaseError:
            self.failures += 1
            return
        if not there:
            return
        selected = ", ".join(column if column in {*there, "rowid"} else "NULL" for column in columns)
        question = (
            f"SELECT rowid, {selected} FROM {table} NOT INDEXED WHERE rowid > ? AND rowid <= ? ORDER BY rowid"
        )
        spans = [(-1, _MAX_ROWID)]
        failures = 0
        while spans and failures < _MAX_FAILURES:
            low, high = spans.pop()
            try:
                for row in self._damaged.execute(question, (low, high)):
                    yield row[1:]
                    low = row[0]
                continue
            except sqlite3.DatabaseError:
                failures += 1
            try:
                # From the other end, so that what is unreadable is narrowed down from both sides.
                for row in self._damaged.execute(f"{question} DESC", (low, high)):
                    yield row[1:]
                    high = row[0] - 1
                continue
            except sqlite3.DatabaseError:
                failures += 1
            if high - low > 1:
                middle = (low + high) // 2
                spans += [(low, middle), (middle, high)]
        self.failures += failures


def _swap(path: Path) -> None:
    """Each step may be the last before a crash; the next start begins with the first again."""
    kept = _beside(path, "damaged")
    wal = _beside(path, "wal", "-")
    if wal.exists():
        os.replace(wal, _beside(kept, "wal", "-"))
    _beside(path, "shm", "-").unlink(missing_ok=True)
    if path.exists():
        kept.unlink(missing_ok=True)
        os.link(path, kept)
    os.replace(_beside(path, "recovered"), path)
    sync_directory(path.parent)
    _beside(path, "malformed").unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Makes durable which names the directory holds. Blocks."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path, suffix: str, separator: str = ".") -> Path:
    return path.with_name(f"{path.name}{separator}{suffix}")
