"""SQL for people: DuckDB over the writer's SQLite file, read-only and locked down.

A query reads the mesh's tables and nothing else: no file, no other database, no setting, no extension.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb

from telltale.errors import InvalidInput, LimitExceeded, NotFound

_EXTENSION = "sqlite_scanner"
_MEMORY_LIMIT = "512MB"
_THREADS = 2
# Table functions that read only their arguments and the catalog. Everything else is refused, above all
# what the SQLite extension adds: those would open any database file of this machine.
_TABLE_FUNCTIONS = frozenset(
    {
        "duckdb_columns", "duckdb_functions", "duckdb_tables", "duckdb_views", "generate_series", "json_each",
        "json_tree", "pragma_table_info", "range", "repeat", "repeat_row", "unnest", "summary",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """Rows of a query. `truncated`: there were more than were asked for."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    truncated: bool


def run_query(database: Path, sql: str, max_rows: int = 10_000, timeout: float = 30.0) -> Result:
    """Runs one query; raises InvalidInput, LimitExceeded or NotFound with one line that says what to do."""
    if not database.is_file():
        raise NotFound(f"there is no database at {database}; start the mesh with make up")
    connection = _open(database)
    try:
        _check(connection, sql)
        timer = threading.Timer(timeout, connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            connection.execute(sql)
            columns = tuple(column[0] for column in connection.description or ())
            rows = connection.fetchmany(max_rows + 1)
        except duckdb.InterruptException:
            raise LimitExceeded(
                "timeout", f"the query took more than {timeout:g} s; ask for less, or allow more"
            ) from None
        except duckdb.Error as wrong:
            raise _invalid(wrong) from None
        finally:
            timer.cancel()
        return Result(columns, rows[:max_rows], len(rows) > max_rows)
    finally:
        connection.close()


def _open(database: Path) -> duckdb.DuckDBPyConnection:
    """A connection that can see the one database and can no longer be taught to see more."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "memory_limit": _MEMORY_LIMIT,
            "threads": str(_THREADS),
            # A table that does not exist must not turn into a variable of this process.
            "python_enable_replacements": "false",
            # Nothing spills into files.
            "max_temp_directory_size": "0B",
        },
    )
    try:
        connection.execute(f"LOAD {_text(str(_extension()))}")
        connection.execute(f"ATTACH {_text(str(database))} AS mesh (TYPE sqlite, READ_ONLY)")
        connection.execute("USE mesh")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except duckdb.Error as wrong:
        connection.close()
        raise InvalidInput(f"{database} cannot be read: {_line(wrong)}") from None
    return connection


def _extension() -> Path:
    package = resources.files(f"duckdb_extension_{_EXTENSION}")
    file = package / "extensions" / f"v{duckdb.__version__}" / f"{_EXTENSION}.duckdb_extension"
    with resources.as_file(file) as path:
        return path


def _check(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raises InvalidInput unless the text is one statement that only reads the mesh's tables."""
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as wrong:
        raise _invalid(wrong) from None
    if len(statements) != 1:
        raise InvalidInput(f"the text holds {len(statements)} statements; give exactly one query")
    statement = statements[0]
    if statement.type != duckdb.StatementType.SELECT:
        raise InvalidInput(f"{statement.type.name} is not allowed; only SELECT, DESCRIBE and SHOW are")
    serialized = connection.execute("SELECT json_serialize_sql(?)", [statement.query]).fetchone()
    tree = json.loads(serialized[0]) if serialized else {}
    if tree.get("error", True):
        raise InvalidInput(f"the query cannot be checked: {tree.get('error_message', 'not understood')}")
    for function in _table_functions(tree):
        if function not in _TABLE_FUNCTIONS:
            raise InvalidInput(f"the table function {function} is not allowed; query the tables of the mesh")


def _table_functions(node: Any) -> Iterator[str]:
    """Names of all functions that stand where a table does, anywhere in a parsed query."""
    if isinstance(node, dict):
        if node.get("type") == "TABLE_FUNCTION":
            # A function whose name is not where it is expected is one that nobody has allowed.
            yield str(node.get("function", {}).get("function_name", "(unnamed)")).lower()
        for child in node.values():
            yield from _table_functions(child)
    elif isinstance(node, list):
        for child in node:
            yield from _table_functions(child)


def _invalid(wrong: duckdb.Error) -> InvalidInput:
    return InvalidInput(f"the query does not work: {_line(wrong)}")


def _line(wrong: duckdb.Error) -> str:
    """DuckDB's message without its drawing of the place."""
    lines = [line.strip() for line in str(wrong).splitlines() if line.strip()]
    return " ".join(line for line in lines[:3] if not line.startswith(("LINE ", "^")))


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
