"""What the database knows: how much is stored of each product, the findings, and whatever SQL can ask."""

import json
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from telltale.cli import show
from telltale.cli.home import Home
from telltale.cli.snapshot import FindingView, GapView
from telltale.errors import Precondition, Unavailable
from telltale.naming import table_name

# The one product that this package names: what the analysis found has a command of its own.
FINDINGS = table_name("analysis.findings")
_BUSY_SECONDS = 2.0
# A finding has a row for each revision; the last one tells how it stands.
_LATEST = f"""
    SELECT * FROM (
        SELECT *, row_number() OVER (PARTITION BY id ORDER BY revision DESC) AS _rank FROM {FINDINGS}
    )
    WHERE _rank = 1 ORDER BY time DESC, id LIMIT ?"""


@dataclass(frozen=True)
class Stored:
    """What is stored of a product: records so far, and the received time of the latest batch."""

    records: int
    received: datetime | None


def stored(database: Path) -> Mapping[str, Stored]:
    """What is stored of each product; empty before the writer has made its database."""
    with _reading(database) as connection:
        if connection is None or not _has_table(connection, "products"):
            return {}
        rows = connection.execute("SELECT product, records, last_received_time FROM products")
        return {row["product"]: Stored(row["records"], _time(row["last_received_time"])) for row in rows}


def gaps(database: Path) -> tuple[GapView, ...]:
    """What can no longer be had of each product, the latest first."""
    with _reading(database) as connection:
        if connection is None or not _has_table(connection, "gaps"):
            return ()
        rows = connection.execute(
            "SELECT product, reason, count(*), max(noticed_time) FROM gaps GROUP BY product, reason"
            " ORDER BY max(noticed_time) DESC, product"
        )
        return tuple(
            GapView(product, reason.lower(), count, str(noticed)[:19])
            for product, reason, count, noticed in rows
        )


def latest_findings(database: Path, limit: int) -> tuple[tuple[FindingView, ...], int]:
    """The latest findings, and how many there are in all."""
    rows, total = _findings(database, limit)
    return tuple(finding_view(row) for row in rows), total


def finding_view(row: Mapping[str, Any]) -> FindingView:
    """The few facts of a finding that fit on a line."""
    return FindingView(
        time=str(row["time"])[:19],
        severity=_word(row["severity"], "SEVERITY_"),
        state=_word(row["state"], "STATE_"),
        entity=" ".join(filter(None, (row["entity"], row["part"]))),
        title=row["title"],
    )


def findings(home: Home, *, limit: int, as_json: bool) -> None:
    """Prints the findings, the latest first."""
    rows, total = _findings(_existing(home), limit)
    if as_json:
        show.document([_finding_document(row) for row in rows])
        return
    views = [finding_view(row) for row in rows]
    show.table(
        ("TIME", "SEVERITY", "STATE", "ENTITY", "WHAT"),
        [(view.time, view.severity, view.state, view.entity, view.title) for view in views],
        empty="Nothing was found.",
    )
    if total > len(rows):
        print(f"\n{total - len(rows)} older ones; --limit shows more")


def query(home: Home, sql: str, *, limit: int, timeout: float, verify: bool, as_json: bool) -> None:
    """Runs one statement on the database, read-only, and prints its rows."""
    database = _existing(home)
    from telltale.cli.sql import run_query  # DuckDB takes longer to import than the other commands to run

    answer = run_query(database, sql, max_rows=limit, timeout=timeout, verify=verify)
    rows = [[_plain(value) for value in row] for row in answer.rows]
    if as_json:
        show.document([dict(zip(answer.columns, row, strict=True)) for row in rows])
    else:
        show.table(answer.columns, rows, empty="No rows.")
    for warning in answer.warnings:
        print(f"telltale: {warning}", file=sys.stderr)
    if answer.truncated:
        print(f"telltale: there are more than {limit} rows; --limit shows more", file=sys.stderr)


def _plain(value: Any) -> Any:
    """A value of SQL as JSON has it."""
    match value:
        case datetime():
            return value.isoformat(sep=" ")
        case bytes():
            return value.hex()
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case None | bool() | int() | float() | str():
            return value
        case _:
            # Dates, spans, decimals: their own text is exact.
            return str(value)


def _findings(database: Path, limit: int) -> tuple[list[dict[str, Any]], int]:
    with _reading(database) as connection:
        if connection is None or not _has_table(connection, FINDINGS):
            return [], 0
        rows = [dict(row) for row in connection.execute(_LATEST, (limit,))]
        total = int(connection.execute(f"SELECT count(DISTINCT id) FROM {FINDINGS}").fetchone()[0])
    return rows, total


def _finding_document(row: Mapping[str, Any]) -> dict[str, Any]:
    """A finding's own fields: what the writer noted about the row begins with an underscore."""
    document = {name: value for name, value in row.items() if not name.startswith("_")}
    for name in ("evidence", "completeness"):
        if isinstance(document.get(name), str):
            document[name] = json.loads(document[name])
    return document


@contextmanager
def _reading(database: Path) -> Iterator[sqlite3.Connection | None]:
    """The database, read-only; None when there is none yet. The writer may go on meanwhile."""
    if not database.exists():
        yield None
        return
    try:
        opened = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
        with closing(opened) as connection:
            connection.row_factory = sqlite3.Row
            yield connection
    except sqlite3.Error as broken:
        raise Unavailable(f"cannot read {database}: {broken}; is it a database of the writer's?") from broken


def _existing(home: Home) -> Path:
    if not home.database.exists():
        raise Precondition(f"there is no database in {home.path}; run `telltale up` for a while first")
    return home.database


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,))
    return found.fetchone() is not None


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None


def _word(name: str | None, prefix: str) -> str:
    return (name or "").removeprefix(prefix).lower()
