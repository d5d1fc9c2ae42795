"""What must not get out of a running mesh: its secrets, other files of the reader, orders to a terminal."""

import os
import re
import resource
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from telltale.cli.sql import run_query
from telltale.errors import InvalidInput
from tests.support.running_mesh import RunningMesh, eventually

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]

# What a join token, a bearer token and a private key look like.
SECRET = re.compile(r"join-[\w-]{20,}@|\beyJ[\w-]{20,}\.|PRIVATE KEY")
# Controls but the newline, in both ranges: a terminal obeys ESC and, in some settings, U+009B as well.
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def members(mesh: RunningMesh) -> list[psutil.Process]:
    found = psutil.Process(mesh.process.pid).children()
    assert len(found) >= 7
    return [psutil.Process(mesh.process.pid), *found]


def test_no_process_shows_a_secret_or_leaves_its_memory_behind(mesh: RunningMesh) -> None:
    mesh.credentials("leaker")
    for process in members(mesh):
        shown = "\n".join([*process.cmdline(), *process.environ().values()])
        assert not SECRET.search(shown), process
        assert process.rlimit(resource.RLIMIT_CORE)[0] == 0, process


def test_no_log_holds_a_secret(mesh: RunningMesh) -> None:
    mesh.credentials("leaker")
    logs = list((mesh.home / "logs").glob("*.log"))
    assert logs
    for log in logs:
        assert not SECRET.search(log.read_text()), log


def test_nobody_but_the_owner_enters_the_home_and_secrets_are_private_even_inside(mesh: RunningMesh) -> None:
    mesh.credentials("leaker")
    assert mesh.home.stat().st_mode & 0o077 == 0
    held = 0
    for path in mesh.home.rglob("*"):
        if (
            path.is_file()
            and path.stat().st_size < 1 << 16
            and SECRET.search(path.read_text(errors="replace"))
        ):
            held += 1
            assert path.stat().st_mode & 0o077 == 0, path
            assert path.parent.stat().st_mode & 0o077 == 0, path
    assert held


def test_what_a_host_reports_gives_no_orders_to_the_readers_terminal(mesh: RunningMesh) -> None:
    marker = f"escape-{os.getpid()}"
    orders = "\x1b]0;owned\x07\x1b[31m\x9b2J\x7f\u202e"
    sleep = shutil.which("sleep")
    assert sleep is not None
    with subprocess.Popen([sleep, "30", marker, orders], stderr=subprocess.DEVNULL) as child:
        child.terminate()
    found = f"FROM servers_process_starts WHERE arguments LIKE '%{marker}%'"
    eventually(lambda: mesh.query(f"SELECT time {found}"), "the start of a process", mesh)
    starts = mesh.query("SELECT count(*) AS n FROM servers_process_starts")[0]["n"]
    tail = ("tail", "servers.process_starts", "--earliest", "--limit", str(starts))
    for arguments in (
        ("query", f"SELECT arguments {found}"),
        ("query", f"SELECT arguments {found}", "--json"),
        ("query", f"SELECT {{'nested': arguments}} AS arguments {found}"),
        tail,
        (*tail, "--json"),
    ):
        said = mesh.telltale(*arguments)
        assert marker in said, arguments
        assert not CONTROL.search(said), arguments
        assert "\u202e" not in said, arguments


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{out}'",
        "EXPORT DATABASE '{out}'",
        "ATTACH '{ledger}' AS stolen (TYPE sqlite)",
        "SELECT * FROM sqlite_scan('{ledger}', 'join_token')",
        "SELECT * FROM sqlite_query('mesh', 'SELECT 1')",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT (SELECT count(*) FROM read_blob('/etc/passwd'))",
        "WITH stolen AS (SELECT * FROM read_csv('/etc/passwd')) SELECT * FROM stolen",
        "DESCRIBE SELECT * FROM read_json_auto('/etc/passwd')",
        "SELECT * FROM batches, LATERAL (SELECT * FROM read_text(product))",
        "SELECT * FROM '/etc/passwd'",
        'SELECT * FROM "/etc/passwd"',
        "SELECT * FROM glob('/*')",
        "SELECT * FROM query('SELECT 1')",
        "SELECT * FROM query_table('batches')",
        "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM duckdb_settings()",
        "SELECT getenv('HOME')",
        "SET enable_external_access = true",
        "SET memory_limit = '100GB'",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "INSERT INTO batches SELECT * FROM batches",
        "DELETE FROM batches",
        "DROP TABLE batches",
        "CREATE TABLE mine AS SELECT 1",
        "SELECT 1; DROP TABLE batches",
    ],
)
def test_a_query_reads_the_tables_of_the_mesh_and_nothing_else(
    mesh: RunningMesh, tmp_path: Path, sql: str
) -> None:
    database = mesh.home / "state" / "writer" / "telltale.db"
    out, ledger = tmp_path / "out", mesh.home / "authorities" / "servers" / "state.sqlite"
    with pytest.raises(InvalidInput) as refused:
        run_query(database, sql.format(out=out, ledger=ledger))
    assert len(str(refused.value).splitlines()) == 1
    assert "root:" not in str(refused.value)
    assert not out.exists()
    assert run_query(database, "SELECT count(*) FROM batches").rows[0][0] > 0


def test_a_query_that_names_its_column_like_markup_is_answered(mesh: RunningMesh) -> None:
    assert mesh.telltale("query", 'SELECT 1 AS "[/x]"').split() == ["[/x]", "1"]


@pytest.mark.parametrize("name", ["../x", "agent/vm", "\u00fc", "", "a" * 300, "a\nb"])
def test_credentials_name_an_operator_and_nothing_else(mesh: RunningMesh, name: str) -> None:
    before = set(mesh.home.parent.rglob("identity.pem"))
    said = mesh.telltale("credentials", "--", name, check=False)
    assert "is no operator's name" in said
    assert len(said.splitlines()) == 1
    assert set(mesh.home.parent.rglob("identity.pem")) == before
