"""SQL for people: DuckDB over the writer's SQLite file and the files of its manifest, read-only, locked down.

A query reads the mesh's tables and nothing else: no other file, no other database, no setting, no extension.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb

from telltale.cli.files import make_views, text, text_list
from telltale.errors import InvalidInput, LimitExceeded, NotFound

_EXTENSION = "sqlite_scanner"
_MEMORY_LIMIT = "512MB"
_THREADS = 2
_ADVICE = "; where a file is damaged, --verify finds it and leaves it out"
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
    """Rows of a query. `truncated`: there were more than were asked for. `warnings`: what is left out."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    truncated: bool
    warnings: tuple[str, ...] = ()


def run_query(
    database: Path, sql: str, max_rows: int = 10_000, timeout: float = 30.0, *, verify: bool = False
) -> Result:
    """Runs one query; raises InvalidInput, LimitExceeded or NotFound with one line that says what to do.

    verify: whether the digests of the files that it reads are checked first.
    """
    if not database.is_file():
        raise NotFound(f"there is no database at {database}; start the mesh with make up")
    connection = _open(database)
    try:
        tree = _parsed(connection, sql)
        # One transaction, so that files and rows are those of one commit.
        connection.execute("BEGIN TRANSACTION")
        warnings = _lock(connection, database, tree, verify=verify)
        _check(tree)
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
            raise _invalid(wrong, advice="" if verify else _ADVICE) from None
        finally:
            timer.cancel()
        return Result(columns, rows[:max_rows], len(rows) > max_rows, warnings)
    finally:
        connection.close()


def _open(database: Path) -> duckdb.DuckDBPyConnection:
    """A connection that sees the one database. Nothing of a query may run on it before `_lock`."""
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
        connection.execute(f"LOAD {text(str(_extension()))}")
        connection.execute(f"ATTACH {text(str(database))} AS mesh (TYPE sqlite, READ_ONLY)")
        connection.execute("SET search_path = 'mesh.main,memory.main'")
    except duckdb.Error as wrong:
        connection.close()
        raise InvalidInput(f"{database} cannot be read: {_line(wrong)}") from None
    return connection


def _extension() -> Path:
    package = resources.files(f"duckdb_extension_{_EXTENSION}")
    file = package / "extensions" / f"v{duckdb.__version__}" / f"{_EXTENSION}.duckdb_extension"
    with resources.as_file(file) as path:
        return path


def _lock(
    connection: duckdb.DuckDBPyConnection, database: Path, tree: Any, *, verify: bool
) -> tuple[str, ...]:
    """From here on the connection can no longer be taught to see more; returns what is left out."""
    try:
        views = make_views(connection, database, _words(tree), verify=verify)
        connection.execute(f"SET allowed_paths = {text_list(views.paths)}")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except duckdb.Error as wrong:
        advice = "" if verify else _ADVICE
        raise InvalidInput(f"{database} cannot be read: {_line(wrong)}{advice}") from None
    return tuple(views.warnings)


def _parsed(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """The tree of the one SELECT, DESCRIBE or SHOW that the text is; InvalidInput otherwise. Runs nothing."""
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
    return tree


def _check(tree: Any) -> None:
    """Raises InvalidInput when a query reads anything but tables."""
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


def _words(node: Any) -> Iterator[str]:
    """Every text in a parsed query; the names of its tables are among them."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _words(child)


def _invalid(wrong: duckdb.Error, advice: str = "") -> InvalidInput:
    said = _line(wrong)
    return InvalidInput(f"the query does not work: {said}{advice if '.parquet' in said else ''}")


def _line(wrong: duckdb.Error) -> str:
    """DuckDB's message without its drawing of the place."""
    lines = [line.strip() for line in str(wrong).splitlines() if line.strip()]
    return " ".join(line for line in lines[:3] if not line.startswith(("LINE ", "^")))
