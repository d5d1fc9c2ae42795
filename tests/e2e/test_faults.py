"""Whatever process is killed comes back, and nothing that a source sealed is missing or stored twice."""

import os
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.support.running_mesh import RunningMesh, eventually, up

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.timeout(240)]

MEMBERS = (
    "certs",
    "services.platform",
    "gateway",
    "services.servers",
    "services.network",
    "services.writer",
    "services.analysis",
    "agent",
)


def stored(mesh: RunningMesh) -> int:
    """Batches that the writer has stored of a product that comes every second here."""
    rows = mesh.query("SELECT count(*) AS batches FROM batches WHERE product = 'servers.memory'")
    return int(rows[0]["batches"]) if rows else 0


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_each_process_may_be_killed_or_stopped_and_no_batch_is_lost_or_stored_twice(
    tmp_path: Path, ending: signal.Signals
) -> None:
    settings = {"TELLTALE_INTERVALS": "servers.memory=1s,servers.cpu=1s"}
    with up(tmp_path / "home", settings=settings) as mesh:
        eventually(lambda: stored(mesh), "the first batch", mesh)
        for name in MEMBERS:
            killed = mesh.pid(name)
            os.kill(killed, ending)
            eventually(lambda name=name, killed=killed: _returned(mesh, name, killed), f"{name} again", mesh)
            before = stored(mesh)
            eventually(lambda before=before: stored(mesh) > before + 1, f"data after {name} died", mesh)
        database = next(mesh.home.rglob("telltale.db"))
    connection = sqlite3.connect(database)
    try:
        chains = connection.execute(
            "SELECT product, source, epoch, min(sequence), max(sequence), count(*), count(DISTINCT sequence)"
            " FROM batches GROUP BY 1, 2, 3"
        ).fetchall()
        lost = connection.execute("SELECT count(*) FROM holes").fetchone()[0]
        refused = connection.execute("SELECT count(*) FROM quarantine").fetchone()[0]
        gaps = connection.execute("SELECT count(*) FROM gaps").fetchone()[0]
    finally:
        connection.close()
    assert {row[0] for row in chains} >= {"servers.memory", "servers.cpu", "mesh.processes"}
    for product, source, _, first, last, count, distinct in chains:
        assert (first, last, count) == (1, distinct, distinct), (product, source)
    assert (lost, refused, gaps) == (0, 0, 0)


def _returned(mesh: RunningMesh, name: str, killed: int) -> bool:
    try:
        return mesh.pid(name) != killed
    except RuntimeError:
        return False


def test_up_for_a_while_ends_by_itself_with_a_summary(tmp_path: Path) -> None:
    with up(tmp_path / "home", "--for", "12s", "--json") as mesh:
        assert mesh.process.wait(60) == 0
    output = (tmp_path / "home.out").read_text()
    summary = output[output.index("{") :]
    for word in ("products", "records_in", "records_stored", "findings"):
        assert word in summary
