import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from telltale.cli.sql import run_query
from telltale.errors import InvalidInput, LimitExceeded, NotFound
from telltale.sqlite import connect


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "it's here.sqlite"
    connection = connect(path)
    connection.execute("CREATE TABLE servers_cpu (time TIMESTAMP, busy_ratio DOUBLE, _source TEXT)")
    connection.execute("INSERT INTO servers_cpu VALUES ('2026-03-04 05:06:07.890123', 0.5, 'a')")
    connection.close()
    return path


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """Another database of this machine, which a query must not reach."""
    path = tmp_path / "stranger.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE secrets (word TEXT)")
    connection.commit()
    connection.close()
    return path


def test_a_product_is_a_table_and_its_times_are_times(database: Path) -> None:
    result = run_query(database, "select time, busy_ratio from servers_cpu where time > '2026-01-01'")
    assert result.columns == ("time", "busy_ratio")
    assert result.rows == [(datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC).replace(tzinfo=None), 0.5)]
    assert not result.truncated


def test_tables_can_be_listed_and_described(database: Path) -> None:
    assert run_query(database, "show tables").rows == [("servers_cpu",)]
    assert run_query(database, "describe servers_cpu").rows[0][:2] == ("time", "TIMESTAMP")


def test_more_rows_than_asked_for_are_cut_and_said_so(database: Path) -> None:
    result = run_query(database, "select * from range(10)", max_rows=3)
    assert (len(result.rows), result.truncated) == (3, True)


@pytest.mark.parametrize(
    "sql",
    [
        "copy servers_cpu to '/tmp/telltale-leak.csv'",
        "attach '/tmp/telltale-other.db'",
        "select * from read_csv('/etc/passwd')",
        "select * from '/etc/passwd'",
        "select * from glob('/etc/*')",
        "install httpfs",
        "load httpfs",
        "set memory_limit = '8GB'",
        "set enable_external_access = true",
        "create table memory.t (i int)",
        "insert into servers_cpu values (now(), 1, 'x')",
        "drop table servers_cpu",
        "detach mesh",
        "use memory",
        "pragma version",
        "call sqlite_attach('{stranger}')",
        "select * from sqlite_scan('{stranger}', 'secrets')",
        "SELECT * FROM main.SQLITE_SCAN('{stranger}', 'secrets')",
        "with q as (from sqlite_scan('{stranger}', 'secrets')) select * from q",
        "select (select count(*) from sqlite_scan('{stranger}', 'secrets'))",
        "describe select * from sqlite_scan('{stranger}', 'secrets')",
        "select * from sqlite_query('mesh', 'select 1')",
        "select * from query('select 1')",
        "select * from '{stranger}'",
        "explain analyze select * from sqlite_scan('{stranger}', 'secrets')",
        "select 1; select 2",
        "",
        "select * from nowhere",
        "select * from statement",
        "selec 1",
    ],
)
def test_a_query_reads_the_mesh_and_nothing_else(database: Path, stranger: Path, sql: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        run_query(database, sql.format(stranger=stranger))
    assert "\n" not in str(refused.value)


def test_a_query_without_end_is_interrupted(database: Path) -> None:
    with pytest.raises(LimitExceeded, match="took more than"):
        run_query(
            database, "select sum(a.range * b.range) from range(1000000) a, range(10000000) b", timeout=0.2
        )


def test_without_a_database_it_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="start the mesh with make up"):
        run_query(tmp_path / "none.sqlite", "select 1")


def test_something_else_than_a_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("dear reader, " * 100)
    with pytest.raises(InvalidInput, match="not a database"):
        run_query(path, "select * from servers_cpu")


def test_what_a_writer_commits_is_seen_while_it_writes(database: Path) -> None:
    writer = connect(database)
    for count in range(1, 4):
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO servers_cpu VALUES ('2026-03-04 05:06:08', 0.1, 'b')")
        assert run_query(database, "select count(*) from servers_cpu").rows == [(count,)]
        writer.execute("COMMIT")
    writer.close()
