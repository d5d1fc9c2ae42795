"""Products whose records are in Parquet files: each becomes a view of its table's name.

The writer's manifest says which files are the history. Nothing else in their directory is looked at, and a
query can open nothing but the files that its own tables need.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from telltale import archive

# The tables of the manifest. A database without them has no files.
_MANIFEST = frozenset({"files", "columns", "distrusted", "products"})
_IDENTITY = ("_source", "_epoch", "_sequence")


@dataclass
class Views:
    """What was made: the files that may be opened, and a sentence for each that is left out."""

    paths: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def make_views(
    connection: duckdb.DuckDBPyConnection, database: Path, words: Iterable[str], *, verify: bool
) -> Views:
    """Makes the views in the connection's own memory; `mesh` is the attached database.

    words: every name that the query uses. Products that it does not name get a view without files, so that
    they can be listed and described. verify: whether the digest of each file is checked.
    """
    views = Views()
    present = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    if not present >= _MANIFEST:
        return views
    used = {word.lower() for word in words}
    for product, table in connection.execute(
        "SELECT product, table_name FROM mesh.products WHERE store = 'COLUMNS'"
    ).fetchall():
        paths = _sound(connection, database, product, views, verify) if table.lower() in used else []
        views.paths += paths
        connection.execute(_view(connection, product, table, paths))
    return views


def _sound(
    connection: duckdb.DuckDBPyConnection, database: Path, product: str, views: Views, verify: bool
) -> list[str]:
    """Paths of the product's files. One that is not as it was written is left out, and named."""
    paths = []
    for name, rows, size, digest, damage in connection.execute(
        "SELECT file, last_row - first_row + 1, bytes, sha256, damage FROM mesh.files"
        " WHERE product = ? AND removed_time IS NULL ORDER BY first_row",
        [product],
    ).fetchall():
        path = archive.directory_of(database) / name
        fault = damage or archive.fault(path, size, digest if verify else None)
        if fault is None:
            paths.append(str(path))
        else:
            views.warnings.append(
                f"{rows} rows of {product} are left out, because {path} is damaged: {fault}; "
                "put a copy in its place and start the writer again"
            )
    return paths


def _view(connection: duckdb.DuckDBPyConnection, product: str, table: str, paths: Sequence[str]) -> str:
    columns = connection.execute(
        "SELECT name, declared FROM mesh.columns WHERE product = ? ORDER BY place", [product]
    ).fetchall()
    # Gives every column its place and type, also one that no file has yet.
    typed = ", ".join(f"CAST(NULL AS {declared}) AS {_name(name)}" for name, declared in columns)
    rows = f"SELECT {typed} WHERE false"
    if paths:
        rows += f" UNION ALL BY NAME SELECT * FROM read_parquet({text_list(paths)}, union_by_name = true)"
    marked = connection.execute(
        "SELECT count(*) FROM mesh.distrusted WHERE product = ?", [product]
    ).fetchone()
    if marked and marked[0]:
        rows = _with_verdicts(rows, product, [name for name, _ in columns])
    return f"CREATE VIEW memory.main.{_name(table)} AS {rows}"


def _with_verdicts(rows: str, product: str, columns: Iterable[str]) -> str:
    """The verdict on what a file holds may have changed since it was written."""
    same = " AND ".join(f"record.{name} = marked.{name[1:]}" for name in _IDENTITY)
    verdict = "CASE WHEN marked.source IS NULL THEN record._verified ELSE 'DISTRUSTED' END AS _verified"
    selected = ", ".join(verdict if name == "_verified" else f"record.{_name(name)}" for name in columns)
    return (
        f"SELECT {selected} FROM ({rows}) AS record LEFT JOIN"
        f" (SELECT * FROM mesh.distrusted WHERE product = {text(product)}) AS marked ON {same}"
    )


def text_list(values: Iterable[str]) -> str:
    """A list of texts as SQL writes it."""
    return f"[{', '.join(text(value) for value in values)}]"


def text(value: str) -> str:
    """A text as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'
