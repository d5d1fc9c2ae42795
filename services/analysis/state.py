"""The state of the analysis in one DuckDB file: every statement about it, and its one transaction.

What was concluded, how far was read and what is to be published commit together or not at all. Not
thread-safe: whoever owns it uses it from one thread at a time. The database is opened anew now and then,
between two transactions: ask for `sql` each time, and keep no connection.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import duckdb
import pyarrow as pa

from services.analysis.streams import Stream
from telltale.api.analysis.v1.findings_pb2 import Completeness
from telltale.api.mesh.v1.batch_pb2 import Cursor, Position
from telltale.errors import Precondition
from telltale.seal.chain import Head

# The service is one of many processes on its machine, and loads no code that did not come with it.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": "1",
    "memory_limit": "512MB",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
# DuckDB keeps some KB in memory for every transaction until the database is closed, with its last connection.
# Closing and opening takes some 20 ms, so that this bounds the one without being seen in the other.
COMMITS_AN_OPENING = 1_000
# Raised with every change of a table that older state does not fit.
_VERSION = 1
_TABLES = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS cursor (
        product TEXT NOT NULL, log TEXT NOT NULL, "offset" BIGINT NOT NULL, PRIMARY KEY (product, log))""",
    """CREATE TABLE IF NOT EXISTS streams (
        product TEXT NOT NULL, source TEXT NOT NULL, run TEXT NOT NULL, origin INTEGER NOT NULL,
        freshness BIGINT NOT NULL, epoch BIGINT NOT NULL, sequence BIGINT NOT NULL,
        header_sha256 BLOB NOT NULL, received BIGINT NOT NULL, watermark BIGINT NOT NULL,
        sealed BIGINT NOT NULL, pending TEXT NOT NULL, pending_since BIGINT NOT NULL,
        after_gap BOOLEAN NOT NULL, PRIMARY KEY (product, source))""",
    """CREATE TABLE IF NOT EXISTS shortfalls (
        product TEXT NOT NULL, source TEXT NOT NULL, minute BIGINT NOT NULL, kind TEXT NOT NULL,
        amount BIGINT NOT NULL, PRIMARY KEY (product, source, minute, kind))""",
)
# Arrow types of the columns of `streams`.
_STREAM_TYPES = (
    *(pa.string(), pa.string(), pa.string(), pa.int32(), pa.int64(), pa.int64(), pa.int64(), pa.binary()),
    *(pa.int64(), pa.int64(), pa.int64(), pa.string(), pa.int64(), pa.bool_()),
)
_MINUTE = 60_000_000
# Sources declare what they lost, at any size: two such amounts still fit into an integer.
_MOST_AMOUNT = (1 << 62) - 1


class State:
    """An open state. Use as `with State(path) as state`."""

    def __init__(self, path: Path, tables: Iterable[str] = ()) -> None:
        self.path = path
        self._tables = (*_TABLES, *tables)
        self._commits = 0

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Findings tell an attacker what is weak: nobody else may read them.
        previous = os.umask(0o077)
        try:
            self.sql = self._connect()
        finally:
            os.umask(previous)
        with self.transaction():
            for statement in self._tables:
                self.sql.execute(statement)
            self.sql.execute("INSERT INTO meta VALUES ('version', ?) ON CONFLICT DO NOTHING", [str(_VERSION)])
        row = self.sql.execute("SELECT value FROM meta WHERE name = 'version'").fetchone()
        if row is None or row[0] != str(_VERSION):
            found = row[0] if row else "none"
            raise Precondition(
                f"{self.path} has state of version {found}, expected {_VERSION}; move it away to start anew"
            )
        return self

    def __exit__(self, *exception: object) -> None:
        self.sql.close()

    def reopen(self) -> None:
        """Closes the database and opens it again; between transactions only."""
        self.sql.close()
        self.sql = self._connect()
        self._commits = 0

    def _connect(self) -> duckdb.DuckDBPyConnection:
        try:
            return duckdb.connect(str(self.path), config=_CONFIG | {"temp_directory": f"{self.path}.spill"})
        except duckdb.IOException as refused:
            first = str(refused).splitlines()[0]
            raise Precondition(
                f"{self.path} cannot be opened: {first}; end the other process, or, if the file is"
                " damaged, move it away: what the logs still have is then judged anew"
            ) from None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, durable at the end."""
        if self._commits >= COMMITS_AN_OPENING:
            self.reopen()
        self.sql.execute("BEGIN TRANSACTION")
        try:
            yield
        except BaseException:
            self.sql.execute("ROLLBACK")
            raise
        self.commit()

    def commit(self) -> None:
        """Ends the transaction; after it returns, a crash loses nothing of it."""
        self.sql.execute("COMMIT")
        self._commits += 1

    # How far was read.

    def cursor(self) -> Cursor:
        rows = self.sql.execute('SELECT product, log, "offset" FROM cursor ORDER BY product, log').fetchall()
        return Cursor(positions=[Position(product=row[0], log=row[1], offset=row[2]) for row in rows])

    def move(self, positions: Mapping[tuple[str, str], int]) -> None:
        """Moves the cursor of each (product, log) to an offset."""
        if positions:
            self.sql.executemany(
                "INSERT OR REPLACE INTO cursor VALUES (?, ?, ?)",
                [[product, log, offset] for (product, log), offset in positions.items()],
            )

    def leave(self, product: str, log: str) -> None:
        """Forgets a log that is no more."""
        self.sql.execute("DELETE FROM cursor WHERE product = ? AND log = ?", [product, log])

    # Streams.

    def streams(self, keys: Iterable[tuple[str, str]] | None = None) -> dict[tuple[str, str], Stream]:
        """Streams by (product, source), those of the keys only when they are given."""
        if keys is None:
            rows = self.sql.execute("SELECT * FROM streams").fetchall()
        else:
            wanted = sorted(set(keys))
            table = pa.table(
                {
                    "product": pa.array([product for product, _ in wanted], pa.string()),
                    "source": pa.array([source for _, source in wanted], pa.string()),
                }
            )
            with self._shown("wanted", table):
                rows = self.sql.execute(
                    "SELECT * FROM streams SEMI JOIN wanted USING (product, source)"
                ).fetchall()
        return {(row[0], row[1]): _stream(row) for row in rows}

    def save(self, streams: Sequence[Stream]) -> None:
        """Keeps streams that were read from, each at most once a transaction."""
        if not streams:
            return
        columns = zip(*(_row(stream) for stream in streams), strict=True)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, _STREAM_TYPES, strict=True)]
        table = pa.Table.from_arrays(arrays, names=[f"c{number}" for number in range(len(arrays))])
        with self._shown("saved", table):
            self.sql.execute("INSERT OR REPLACE INTO streams SELECT * FROM saved")

    def skip(self, product: str) -> None:
        """Each chain of a product may skip once: a part of it can no longer be had."""
        self.sql.execute("UPDATE streams SET after_gap = TRUE WHERE product = ?", [product])

    def hear(self, since: Mapping[str, int]) -> None:
        """Makes the table `hearing` of the products that are listened to, for rules about silence."""
        self.sql.execute("CREATE OR REPLACE TEMP TABLE hearing (product TEXT, since BIGINT)")
        if since:
            self.sql.executemany("INSERT INTO hearing VALUES (?, ?)", [list(item) for item in since.items()])

    def received(self, product: str) -> int:
        """Latest received time of a product; 0 before the first."""
        row = self.sql.execute("SELECT max(received) FROM streams WHERE product = ?", [product]).fetchone()
        return int(row[0]) if row is not None and row[0] is not None else 0

    def products(self) -> list[str]:
        return [row[0] for row in self.sql.execute("SELECT DISTINCT product FROM streams").fetchall()]

    # What did not arrive.

    def fall_short(self, amounts: Mapping[tuple[str, str, int, str], int]) -> None:
        """Adds to what is missing, by (product, source, time, kind); an empty source means every source."""
        by_minute: dict[tuple[str, str, int, str], int] = {}
        for (product, source, at, kind), amount in amounts.items():
            key = (product, source, at // _MINUTE, kind)
            by_minute[key] = min(by_minute.get(key, 0) + amount, _MOST_AMOUNT)
        if by_minute:
            self.sql.executemany(
                "INSERT INTO shortfalls VALUES ($1, $2, $3, $4, $5)"
                " ON CONFLICT DO UPDATE SET amount = least(amount + excluded.amount, $6)",
                [[*key, amount, _MOST_AMOUNT] for key, amount in by_minute.items()],
            )

    def completeness(self, product: str, source: str, since: int, until: int) -> Completeness:
        """What is missing of a product and source between two times; empty names mean all."""
        rows = self.sql.execute(
            """SELECT kind, sum(amount) FROM shortfalls
            WHERE minute BETWEEN $since AND $until AND ($product = '' OR product = $product)
              AND ($source = '' OR source = '' OR source = $source) GROUP BY kind""",
            {"since": since // _MINUTE, "until": until // _MINUTE, "product": product, "source": source},
        ).fetchall()
        return Completeness(**{kind: min(int(amount), _MOST_AMOUNT) for kind, amount in rows})

    # Growth is bounded by age.

    def forget(self, before: int) -> None:
        """Drops what belongs to sources that have not been heard since."""
        self.sql.execute("DELETE FROM streams WHERE received < ?", [before])
        self.sql.execute("DELETE FROM shortfalls WHERE minute < ?", [before // _MINUTE])

    @contextmanager
    def _shown(self, name: str, table: pa.Table) -> Iterator[None]:
        self.sql.register(name, table)
        try:
            yield
        finally:
            self.sql.unregister(name)


def _stream(row: tuple[Any, ...]) -> Stream:
    (
        product,
        source,
        run,
        origin,
        freshness,
        epoch,
        sequence,
        digest,
        received,
        watermark,
        sealed,
        *waiting,
    ) = row
    return Stream(
        product=product,
        source=source,
        run=run,
        origin=origin,
        freshness=freshness,
        head=Head(epoch, sequence, digest),
        received=received,
        watermark=watermark,
        sealed=sealed,
        pending=tuple((first, last) for first, last in json.loads(waiting[0])),
        pending_since=waiting[1],
        after_gap=waiting[2],
    )


def _row(stream: Stream) -> tuple[object, ...]:
    head = stream.head or Head(0, 0, b"")
    return (
        stream.product,
        stream.source,
        stream.run,
        stream.origin,
        stream.freshness,
        head.epoch,
        head.sequence,
        head.header_sha256,
        stream.received,
        stream.watermark,
        stream.sealed,
        json.dumps(stream.pending),
        stream.pending_since,
        stream.after_gap,
    )
