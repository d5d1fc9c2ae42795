"""The running mesh as its users meet it: real processes, real clients, real data of this machine."""

import json
import os
import platform
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.support.domain import free_port
from tests.support.running_mesh import BIN, RunningMesh, eventually

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]

API = "telltale.api.servers.v1"


def grpcurl(mesh: RunningMesh, *arguments: str, token: bool = True, operator: str = "operator") -> str:
    """What grpcurl prints, errors included."""
    made = mesh.credentials(operator)
    command = [str(BIN / "grpcurl"), "-cacert", made["ca"], "-cert", made["certificate"], "-key", made["key"]]
    if token:
        command += ["-H", f"authorization: Bearer {Path(made['token']).read_text().strip()}"]
    port = mesh.gateway.rpartition(":")[2]
    flags = [one for one in arguments if one.startswith("-")]
    values = {"-d": True, "-max-time": True}
    options: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument in values:
            options += [argument, next(waiting)]
        elif argument in flags:
            options.append(argument)
        else:
            rest.append(argument)
    done = subprocess.run(
        [*command, *options, f"localhost:{port}", *rest],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_list_of_services_is_the_list_of_products(mesh: RunningMesh) -> None:
    listed = set(grpcurl(mesh, "list").split())
    products = mesh.json("products")
    assert len(products) >= 16
    assert {product["service"] for product in products} <= listed


def test_describe_shows_comments_units_and_the_promise(mesh: RunningMesh) -> None:
    service = grpcurl(mesh, "describe", f"{API}.DiskUsage")
    assert "// How full every mounted filesystem is" in service
    assert 'owner:"server-management"' in service
    record = grpcurl(mesh, "describe", f"{API}.DiskUsageRecord")
    assert "// Space in use." in record
    assert 'unit:"By"' in record


def test_grpcurl_subscribes_and_lists_typed_records(mesh: RunningMesh) -> None:
    streamed = grpcurl(mesh, "-max-time", "3", f"{API}.DiskUsage/Subscribe")
    frame = json.JSONDecoder().raw_decode(streamed)[0]
    records = frame["batches"][0]["payload"]["records"]
    assert "/" in {record["mountpoint"] for record in records}
    listed = json.loads(grpcurl(mesh, f"{API}.Inventory/List"))
    assert listed["entries"][0]["record"]["kernelRelease"] == platform.release()


def test_buf_curl_lists_the_products(mesh: RunningMesh) -> None:
    made = mesh.credentials()
    token = Path(made["token"]).read_text().strip()
    port = mesh.gateway.rpartition(":")[2]
    done = subprocess.run(
        [
            *(str(BIN / "buf"), "curl", "--protocol", "grpc", "--reflect-header", "*", "--list-services"),
            *("--cacert", made["ca"], "--cert", made["certificate"], "--key", made["key"]),
            *("-H", f"authorization: Bearer {token}", f"https://localhost:{port}"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"{API}.DiskUsage" in done.stdout


def test_reflection_without_a_token_is_refused_with_advice(mesh: RunningMesh) -> None:
    said = grpcurl(mesh, "list", token=False)
    assert "Unauthenticated" in said
    assert "authorization: Bearer" in said


def test_a_stolen_token_is_worth_nothing_with_another_certificate(mesh: RunningMesh) -> None:
    mine, thief = mesh.credentials("owner"), mesh.credentials("thief")
    stolen = Path(mine["token"]).read_text().strip()
    port = mesh.gateway.rpartition(":")[2]
    done = subprocess.run(
        [
            *(str(BIN / "grpcurl"), "-cacert", thief["ca"], "-cert", thief["certificate"]),
            *("-key", thief["key"], "-H", f"authorization: Bearer {stolen}", f"localhost:{port}", "list"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Unauthenticated" in done.stdout + done.stderr


def test_nobody_pushes_through_the_gateway(mesh: RunningMesh) -> None:
    said = grpcurl(mesh, "-d", "{}", "telltale.api.mesh.v1.Ingest/Push")
    assert "batches" not in said
    assert "Code:" in said or "does not" in said


def test_malformed_input_names_the_mistake(mesh: RunningMesh) -> None:
    said = grpcurl(mesh, "-d", '{"filter": "nonsense = 1"}', f"{API}.Inventory/List")
    assert "InvalidArgument" in said
    assert "nonsense" in said


def test_the_database_agrees_with_df(mesh: RunningMesh) -> None:
    (row,) = mesh.query(
        "SELECT total_bytes, used_bytes, used_ratio FROM servers_disk_usage"
        " WHERE mountpoint = '/' ORDER BY time DESC LIMIT 1"
    )
    usage = os.statvfs("/")
    assert row["total_bytes"] == usage.f_blocks * usage.f_frsize
    used = (usage.f_blocks - usage.f_bfree) * usage.f_frsize
    assert row["used_bytes"] == pytest.approx(used, rel=0.02)
    assert row["used_ratio"] == pytest.approx(used / (used + usage.f_bavail * usage.f_frsize), abs=0.02)


def test_the_database_agrees_with_free_and_uname(mesh: RunningMesh) -> None:
    (memory,) = mesh.query("SELECT * FROM servers_memory ORDER BY time DESC LIMIT 1")
    assert memory["total_bytes"] == psutil.virtual_memory().total
    (host,) = mesh.query("SELECT * FROM servers_inventory")
    assert host["kernel_release"] == platform.release()
    assert host["memory_bytes"] == psutil.virtual_memory().total
    assert host["cpu_count"] == psutil.cpu_count()


def test_every_row_says_where_it_is_from_and_that_it_was_verified(mesh: RunningMesh) -> None:
    rows = mesh.query("SELECT DISTINCT _source, _verified FROM servers_cpu")
    assert [row["_verified"] for row in rows] == ["VERIFIED"]
    assert rows[0]["_source"].startswith("spiffe://servers.telltale.internal/agent/")


def test_every_process_publishes_its_metrics(mesh: RunningMesh) -> None:
    roles = {"authority", "gateway", "writer", "analysis service", "servers service", "platform service"}

    def look() -> bool:
        return roles <= {row["role"] for row in mesh.query("SELECT DISTINCT role FROM mesh_processes")}

    eventually(look, "metrics of every process", mesh)


def test_sqlite_utils_and_datasette_open_the_database_while_it_is_written(mesh: RunningMesh) -> None:
    database = next(mesh.home.rglob("telltale.db"))
    done = subprocess.run(
        [str(BIN / "sqlite-utils"), "tables", str(database)], capture_output=True, text=True, check=True
    )
    assert "servers_disk_usage" in done.stdout
    port = free_port()
    server = subprocess.Popen(
        [str(BIN / "datasette"), "serve", str(database), "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}/{database.stem}/servers_disk_usage.json?_shape=array&_size=1"

        def look() -> list[dict[str, object]]:
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    rows: list[dict[str, object]] = json.load(answer)
                    return rows
            except OSError:
                return []

        assert eventually(look, "an answer of Datasette")[0]["total_bytes"]
    finally:
        server.terminate()
        server.wait(20)


def test_the_agent_listens_nowhere_and_dials_only_its_domain_and_its_authority(mesh: RunningMesh) -> None:
    agent = psutil.Process(mesh.pid("agent"))
    allowed = {
        value.rpartition(":")[2]
        for name, value in agent.environ().items()
        if name in ("TELLTALE_SERVICE", "TELLTALE_AUTHORITY", "TELLTALE_ENROLLMENT")
    }
    sockets = agent.net_connections(kind="inet")
    assert not [one for one in sockets if one.status == psutil.CONN_LISTEN]
    assert {str(one.raddr.port) for one in sockets if one.raddr} <= allowed
    assert all(one.raddr for one in sockets), sockets
    assert agent.children(recursive=True) == []


def test_secrets_lie_in_private_directories(mesh: RunningMesh) -> None:
    for path in mesh.home.rglob("*"):
        if path.suffix in (".key", ".db") or "PRIVATE KEY" in _text(path):
            assert path.stat().st_mode & 0o077 == 0, path


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() and path.stat().st_size < 1 << 16 else ""


def test_a_masked_secret_never_reaches_the_database(mesh: RunningMesh) -> None:
    marker = f"telltale-{os.getpid()}"

    def look() -> list[dict[str, object]]:
        # Not the query itself, whose arguments name the marker too.
        return mesh.query(
            "SELECT arguments FROM servers_process_starts"
            f" WHERE arguments LIKE '%{marker}%' AND arguments NOT LIKE '%SELECT%'"
        )

    # Lives until it is seen: what ends at once may leave no arguments.
    command = [sys.executable, "-c", "import time; time.sleep(60)", "--password=hunter2", marker]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        try:
            rows = eventually(look, "the start of a process", mesh)
        finally:
            child.terminate()
    assert "hunter2" not in str(rows)
    assert "--password=***" in str(rows)


def test_errors_of_the_command_line_are_one_line(mesh: RunningMesh) -> None:
    for arguments in (
        ("query", "SELECT * FROM no_such_table"),
        ("query", "COPY (SELECT 1) TO '/tmp/out.csv'"),
        ("query", "SELECT * FROM read_csv('/etc/passwd')"),
        ("describe", "servers.nothing"),
        ("inventory", "servers.cpu"),
        ("tail", "no product"),
        ("credentials", "../escape"),
    ):
        said = mesh.telltale(*arguments, check=False)
        assert "Traceback" not in said
        assert len(said.strip().splitlines()) == 1, (arguments, said)


def test_a_second_mesh_in_the_same_home_is_refused(mesh: RunningMesh) -> None:
    said = mesh.telltale("up", "--for", "1s", check=False)
    assert len(said.strip().splitlines()) == 1
    assert mesh.process.poll() is None


def test_no_batch_is_missing_or_twice(mesh: RunningMesh) -> None:
    database = next(mesh.home.rglob("telltale.db"))
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    rows = connection.execute(
        "SELECT product, source, epoch, min(sequence), max(sequence), count(*) FROM batches"
        # The host's agent and the mesh's own processes; hostile sources of other tests leave what they like.
        " WHERE source IN (SELECT _source FROM servers_cpu) OR product = 'mesh.processes' GROUP BY 1, 2, 3"
    ).fetchall()
    connection.close()
    assert rows
    for product, source, _, first, last, count in rows:
        assert (first, last - first + 1) == (1, count), (product, source)
