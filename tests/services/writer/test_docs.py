"""docs/database.md is about this database: every table and column is in it, and its queries run."""

import re
import sqlite3
from pathlib import Path

import pytest

from services.writer import sql
from services.writer.store import Store
from telltale.cli.sql import run_query
from tests.support.batches import INVENTORY, Chain, disk_usage, host
from tests.support.deliveries import Log
from tests.support.mesh import Mesh

PAGE = (Path(__file__).parents[3] / "docs" / "database.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
TABLES = [
    name for statement in sql.SCHEMA for name in re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", statement)
]


@pytest.mark.parametrize("name", [*TABLES, *sql.PROVENANCE_NAMES, "_row", "_key", "_change"])
def test_every_table_and_column_is_explained(name: str) -> None:
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("query", QUERIES)
async def test_the_queries_of_the_page_run(query: str, store: Store, database: Path, mesh: Mesh) -> None:
    credentials = mesh.credentials("servers", "/agent/web1")
    log = Log()
    await store.commit(
        [
            log.deliver(Chain(credentials).next([disk_usage("/", 0.9)])),
            log.deliver(Chain(credentials, INVENTORY).next([host("web1")])),
        ]
    )
    if "julianday" in query:
        with sqlite3.connect(database) as connection:
            connection.execute(query).fetchall()
        connection.close()
    else:
        run_query(database, query)
