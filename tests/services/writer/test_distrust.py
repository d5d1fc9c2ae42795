"""What was stored before the word came is marked: all of it, once, and nothing beside it."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.writer import distrust as marking
from services.writer.distrust import mark, mark_for_ever
from services.writer.store import Store
from telltale.api.mesh.v1.batch_pb2 import Snapshot
from telltale.identity.distrust import Distrust
from tests.services.writer.test_store import rows
from tests.support.batches import INVENTORY, Chain, disk_usage, host
from tests.support.deliveries import Log
from tests.support.mesh import Mesh
from tests.support.words import lift, say, word

NOW = datetime.now(UTC)
SINCE = NOW - timedelta(seconds=30)
WEB1 = "spiffe://servers.telltale.test/agent/web1"


def chain_of(mesh: Mesh, name: str = "web1", product: str = "servers.disk_usage") -> Chain:
    return Chain(mesh.credentials("servers", f"/agent/{name}"), product)


def at(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def verdicts(database: Path, table: str = "servers_disk_usage", name: str = "mountpoint") -> dict[str, str]:
    return dict(rows(database, f"SELECT {name}, _verified FROM {table} ORDER BY rowid"))


def quarantined(database: Path) -> list[tuple[Any, ...]]:
    return rows(
        database, "SELECT source, sequence, reason, signed, payload_bytes FROM quarantine ORDER BY id"
    )


async def stored(store: Store, mesh: Mesh) -> None:
    """Two hosts, each with a batch before the time and two after it."""
    log = Log()
    for name in ("web1", "web2"):
        chain = chain_of(mesh, name)
        for number, seconds in enumerate((40, 20, 10)):
            records = [disk_usage(f"/{name}/{number}/{part}") for part in range(3)]
            await store.commit([log.deliver(chain.next(records, sealed_at=at(seconds)))])


async def test_rows_sealed_since_then_say_so_and_no_others(store: Store, database: Path, mesh: Mesh) -> None:
    await stored(store, mesh)
    entry = word(mesh.spiffe_id("servers", "/agent/web1"), SINCE)
    assert await mark([entry], store) == 2
    expected = {
        f"/{name}/{number}/{part}": "DISTRUSTED" if name == "web1" and number else "VERIFIED"
        for name in ("web1", "web2")
        for number in range(3)
        for part in range(3)
    }
    assert verdicts(database) == expected
    assert quarantined(database) == [(WEB1, 2, "DISTRUSTED", 1, 0), (WEB1, 3, "DISTRUSTED", 1, 0)]
    (detail,) = set(rows(database, "SELECT detail FROM quarantine"))
    assert "is distrusted since" in detail[0] and "are marked" in detail[0]


async def test_marking_again_changes_nothing_and_the_lift_undoes_nothing(
    store: Store, database: Path, mesh: Mesh
) -> None:
    await stored(store, mesh)
    entry = word(mesh.spiffe_id("servers", "/agent/web1"), SINCE)
    await mark([entry], store)
    before = verdicts(database), quarantined(database)
    assert await mark([entry], store) == 0
    trust = mesh.trust
    say(trust, mesh, entry)
    lift(trust, mesh, entry.spiffe_id)
    assert await mark(trust.distrust.entries, store) == 0
    assert (verdicts(database), quarantined(database)) == before


async def test_an_interval_that_is_over_marks_what_lies_in_it(
    store: Store, database: Path, mesh: Mesh
) -> None:
    await stored(store, mesh)
    assert await mark([word(mesh.spiffe_id("servers", "/agent/web1"), SINCE, at(15))], store) == 1
    assert {name for name, verdict in verdicts(database).items() if verdict == "DISTRUSTED"} == {
        f"/web1/1/{part}" for part in range(3)
    }


async def test_many_batches_are_marked_in_small_transactions(
    store: Store, database: Path, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marking, "MARKED_AT_ONCE", 7)
    monkeypatch.setattr(marking, "QUARANTINED", 10)
    log, chain = Log(), chain_of(mesh)
    batches = [chain.next([disk_usage(f"/{number}")], sealed_at=at(20)) for number in range(21)]
    await store.commit([log.deliver(batch) for batch in batches])
    assert await mark([word(mesh.spiffe_id("servers", "/agent/web1"), SINCE)], store) == 21
    assert set(verdicts(database).values()) == {"DISTRUSTED"}
    # One word pushes nobody else out of the quarantine.
    assert len(quarantined(database)) == 10


async def test_an_inventory_s_state_and_history_are_marked_and_half_a_snapshot_is_forgotten(
    store: Store, database: Path, mesh: Mesh
) -> None:
    log, chain = Log(), chain_of(mesh, product=INVENTORY)
    steps = [
        chain.next([host("a", cpu_count=1), host("b", cpu_count=1)], sealed_at=at(40)),
        chain.next([host("b", cpu_count=2), host("c", cpu_count=2)], sealed_at=at(20)),
        chain.next([host("d")], snapshot=Snapshot(id="s", index=0), sealed_at=at(10)),
    ]
    for step in steps:
        await store.commit([log.deliver(step)])
    assert len(rows(database, "SELECT 1 FROM staged")) == 1
    await mark([word(mesh.spiffe_id("servers", "/agent/web1"), SINCE)], store)
    current = verdicts(database, "servers_inventory", "host_name")
    assert current == {"a": "VERIFIED", "b": "DISTRUSTED", "c": "DISTRUSTED"}
    history = rows(database, "SELECT host_name, _verified FROM servers_inventory_history ORDER BY _row")
    assert history == [
        ("a", "VERIFIED"),
        ("b", "VERIFIED"),
        ("b", "DISTRUSTED"),
        ("c", "DISTRUSTED"),
    ]
    assert not rows(database, "SELECT 1 FROM staged")


async def test_a_batch_that_was_verified_before_the_word_is_not_stored_after_it(
    database: Path, mesh: Mesh
) -> None:
    trust, log, chain = mesh.trust, Log(), chain_of(mesh)
    delivered = log.deliver(chain.next([disk_usage("/")], sealed_at=at(10)))
    async with Store(database, trust.distrust) as store:
        say(trust, mesh, word(mesh.spiffe_id("servers", "/agent/web1"), SINCE))
        tally = await store.commit([delivered])
    assert tally.batches == 0
    assert [(one[2], one[3]) for one in quarantined(database)] == [("DISTRUSTED", 1)]


async def test_words_are_heeded_when_they_come_and_at_the_next_start(database: Path, mesh: Mesh) -> None:
    trust = mesh.trust

    async def marked(heeding: Distrust, store: Store, count: int) -> None:
        task = asyncio.create_task(mark_for_ever(heeding, store))
        try:
            async with asyncio.timeout(30):
                while list(verdicts(database).values()).count("DISTRUSTED") != count:
                    assert not task.done()
                    await asyncio.sleep(0.02)
                    if not heeding.entries:
                        say(trust, mesh, word(mesh.spiffe_id("servers", "/agent/web1"), SINCE))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async with Store(database) as store:
        await stored(store, mesh)
        await marked(trust.distrust, store, 6)
        # Said while the writer was away.
        say(trust, mesh, word(mesh.spiffe_id("servers", "/agent/web2"), SINCE))
        await marked(trust.distrust, store, 12)
