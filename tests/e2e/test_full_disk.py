"""A whole mesh on a disk that fills up: nobody dies or breaks anything, and all go on when there is room.

Needs root, to mount a small file system.
"""

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import filled, small_disk
from tests.support.running_mesh import RunningMesh, eventually, up

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.timeout(300)]

SETTINGS = {"TELLTALE_INTERVALS": "servers.memory=1s,servers.cpu=1s"}
# The analysis ends over a full disk, on purpose, and begins again; the others wait.
STAYING = ("certs", "gateway", "services.platform", "services.servers", "services.writer", "agent")
# Long enough for every process to meet the full disk: the slowest writes every ten seconds.
FULL_SECONDS = 25


def stored(mesh: RunningMesh) -> int:
    """Batches that the writer has stored of a product that comes every second here."""
    rows = mesh.query("SELECT count(*) AS batches FROM batches WHERE product = 'servers.memory'")
    return int(rows[0]["batches"]) if rows else 0


def test_a_full_disk_loses_nothing_that_was_acked_and_everything_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", "50m") as disk, up(disk / "home", settings=SETTINGS) as mesh:
        eventually((mesh.home / "logs" / "agent.log").exists, "the start of the agent", mesh)
        eventually(lambda: stored(mesh) > 2, "the first batches", mesh)
        before = {name: mesh.pid(name) for name in STAYING}
        with filled(disk):
            time.sleep(FULL_SECONDS)
        assert {name: mesh.pid(name) for name in STAYING} == before
        already = stored(mesh)
        eventually(lambda: stored(mesh) > already + 5, "data after the disk had room again", mesh)
        eventually(lambda: mesh.query("SELECT 1 AS one FROM losses LIMIT 1"), "what was lost is told", mesh)
        database = next(mesh.home.rglob("telltale.db"))
        chains = asked(
            database,
            "SELECT product, source, min(sequence), max(sequence), count(*), count(DISTINCT sequence)"
            " FROM batches GROUP BY product, source, epoch",
        )
        for product, source, first, last, count, distinct in chains:
            assert (first, last, count) == (1, distinct, distinct), (product, source)
        for table in ("holes", "gaps", "quarantine"):
            assert asked(database, f"SELECT * FROM {table}") == []
        # What could not be kept meanwhile is declared, with its reason.
        reasons = asked(database, "SELECT DISTINCT reason, detail LIKE '%could not be kept%' FROM losses")
        assert ("FAILURE", 1) in reasons


def asked(database: Path, question: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as db:
        return db.execute(question).fetchall()
