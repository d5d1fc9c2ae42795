"""A gateway that was patched to drop, turn around and change what passes, in a whole mesh that notices."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.attacker import Attacker
from tests.support.batches import DISK_USAGE, Chain, disk_usage
from tests.support.running_mesh import ROOT, RunningMesh, eventually, up

# It has a mesh of its own.
pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.timeout(240)]

SETTINGS = {
    "PYTHONPATH": f"{ROOT / 'tests' / 'support' / 'hostile_gateway'}:{ROOT}",
    # Who waits for a while before it speaks waits briefly here.
    "TELLTALE_HOLE_GRACE_SECONDS": "1",
    "TELLTALE_TICK_SECONDS": "1",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    with up(tmp_path_factory.mktemp("hostile") / "home", settings=SETTINGS) as mesh:
        eventually(lambda: mesh.query("SELECT 1 FROM servers_inventory"), "a row in the database", mesh)
        yield mesh


async def tell(mesh: RunningMesh, host: str, batches: int) -> None:
    """An honest host hands in batches, one mountpoint each, ten seconds apart by its own clock."""
    attacker = Attacker(mesh)
    honest = await attacker.enrol("servers", f"/agent/{host}")
    chain = Chain(honest.credentials)
    start = datetime.now(UTC)
    sealed = [
        chain.next([disk_usage(f"/{host}/{n}")], sealed_at=start + timedelta(seconds=10 * n))
        for n in range(1, batches + 1)
    ]
    said = await attacker.push(honest, *sealed)
    assert len(said.acks) == batches and not said.refusals


def stored(mesh: RunningMesh, host: str) -> set[int]:
    rows = mesh.query(f"SELECT mountpoint FROM servers_disk_usage WHERE mountpoint LIKE '/{host}/%'")
    return {int(row["mountpoint"].rpartition("/")[2]) for row in rows}


def findings(mesh: RunningMesh, detection: str, host: str) -> list[Any]:
    return [one for one in mesh.json("findings") if (one["detection"], one["entity"]) == (detection, host)]


def quarantined(mesh: RunningMesh, host: str) -> list[dict[str, Any]]:
    return mesh.query(
        f"SELECT product, sequence, reason FROM quarantine WHERE source LIKE '%/agent/{host}'"
        " ORDER BY sequence"
    )


async def test_every_tenth_batch_that_is_dropped_is_a_hole_and_a_finding(hostile: RunningMesh) -> None:
    await tell(hostile, "tenth", 25)
    (finding,) = eventually(lambda: findings(hostile, "broken_chain", "tenth"), "the finding", hostile)
    assert finding["product"] == DISK_USAGE
    eventually(lambda: 25 in stored(hostile, "tenth"), "the last batch", hostile)
    assert stored(hostile, "tenth") == set(range(1, 26)) - {10, 20}
    holes = hostile.query(
        "SELECT first_sequence, last_sequence, reason FROM holes WHERE source LIKE '%/agent/tenth' ORDER BY 1"
    )
    assert [tuple(hole.values()) for hole in holes] == [(10, 10, "UNDECLARED"), (20, 20, "UNDECLARED")]


async def test_batches_that_are_turned_around_are_stored_in_their_own_place_and_become_a_finding(
    hostile: RunningMesh,
) -> None:
    await tell(hostile, "swapped", 5)
    eventually(lambda: stored(hostile, "swapped") == {1, 2, 3, 4, 5}, "all of them", hostile)
    rows = hostile.query(
        "SELECT _sequence AS sequence, mountpoint FROM servers_disk_usage"
        " WHERE mountpoint LIKE '/swapped/%' ORDER BY 1"
    )
    assert [row["mountpoint"] for row in rows] == [f"/swapped/{row['sequence']}" for row in rows]
    eventually(lambda: findings(hostile, "broken_chain", "swapped"), "the finding", hostile)


async def test_a_payload_that_is_changed_is_quarantined_and_a_finding(hostile: RunningMesh) -> None:
    await tell(hostile, "changed", 5)
    eventually(lambda: findings(hostile, "forged_batch", "changed"), "the finding", hostile)
    eventually(lambda: len(quarantined(hostile, "changed")) == 2, "two in quarantine", hostile)
    assert [tuple(row.values()) for row in quarantined(hostile, "changed")] == [
        (DISK_USAGE, 2, "SIGNATURE"),
        (DISK_USAGE, 4, "SIGNATURE"),
    ]
    eventually(lambda: stored(hostile, "changed") == {1, 3, 5}, "the others", hostile)


async def test_a_batch_that_is_moved_to_another_product_is_quarantined_and_a_finding(
    hostile: RunningMesh,
) -> None:
    await tell(hostile, "moved", 3)
    eventually(lambda: findings(hostile, "forged_batch", "moved"), "the finding", hostile)
    (row,) = eventually(lambda: quarantined(hostile, "moved"), "the quarantine", hostile)
    assert row["reason"] == "SIGNATURE"
    assert not hostile.query("SELECT 1 FROM servers_memory WHERE _source LIKE '%/agent/moved'")
    eventually(lambda: stored(hostile, "moved") == {1, 3}, "the others", hostile)
