import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from services.writer.settings import WriterSettings
from services.writer.store import Store
from services.writer.writer import write_for_ever
from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.errors import BatchRefused, ConfigurationError
from tests.support.batches import INVENTORY, Chain, disk_usage, host
from tests.support.gateways import Gateway, running_gateway
from tests.support.mesh import Mesh


def settings_of(tmp_path: Path, database: Path, gateway: str, **values: Any) -> WriterSettings:
    return WriterSettings(
        state=tmp_path / "state",
        trust=tmp_path,
        authority="none:1",
        enrollment="none:1",
        gateway=gateway,
        platform="none:1",
        database=database,
        **values,
    )


def count(database: Path, table: str) -> int:
    connection = sqlite3.connect(database)
    try:
        found: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return found
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


async def until(database: Path, table: str, wanted: int) -> None:
    async with asyncio.timeout(20):
        while count(database, table) < wanted:  # noqa: ASYNC110  # the database is another process's, as it were
            await asyncio.sleep(0.02)


async def test_the_writer_stores_what_is_published_reports_refusals_and_goes_on_after_a_restart(
    mesh: Mesh, tmp_path: Path, database: Path
) -> None:
    gateway = Gateway()
    me = mesh.workload("platform", "/writer")
    chain = Chain(mesh.credentials("servers", "/agent/web1"))
    inventory = Chain(chain.credentials, INVENTORY)
    reported: list[tuple[str, str, RefusalReason]] = []

    def report(header: Header, refused: BatchRefused) -> None:
        reported.append((header.source, header.product, refused.reason))

    async with running_gateway(mesh, gateway) as address:
        settings = settings_of(tmp_path, database, address, commit_seconds=0.05)
        for first in (True, False):
            stopping = asyncio.Event()
            async with Store(database) as store, asyncio.TaskGroup() as tasks:
                tasks.create_task(write_for_ever(me, settings, store, report, stopping))
                if first:
                    good, bad = chain.next([disk_usage("/")]), chain.next([disk_usage("/bad")])
                    forged = SealedBatch(header=bad.header, signature=b"no", payload=bad.payload)
                    await gateway.add(
                        good, forged, inventory.next([host("web1")]), credentials=chain.credentials
                    )
                    await until(database, "quarantine", 1)
                    await until(database, "servers_inventory", 1)
                else:
                    await gateway.add(chain.next([disk_usage("/after")]), credentials=chain.credentials)
                    await until(database, "servers_disk_usage", 2)
                stopping.set()
    assert reported == [
        (
            "spiffe://servers.telltale.test/agent/web1",
            "servers.disk_usage",
            RefusalReason.REFUSAL_REASON_SIGNATURE,
        )
    ]
    assert {(p.product, p.offset) for p in gateway.requests[-1].cursor.positions} == {
        ("servers.disk_usage", 2),
        ("servers.inventory", 3),
    }
    assert count(database, "servers_disk_usage") == 2


async def test_a_forged_batch_in_the_writers_own_name_is_reported_unless_it_is_a_report(
    mesh: Mesh, tmp_path: Path, database: Path
) -> None:
    gateway = Gateway()
    me = mesh.workload("platform", "/writer")
    reported: list[str] = []
    stopping = asyncio.Event()
    forged = [
        SealedBatch(header=Chain(me.credentials).next(product=product).header, signature=b"no")
        for product in ("mesh.refusals", "servers.disk_usage")
    ]

    def report(header: Header, refused: BatchRefused) -> None:
        reported.append(header.product)
        stopping.set()

    async with running_gateway(mesh, gateway) as address, Store(database) as store:
        await gateway.add(*forged, credentials=me.credentials)
        settings = settings_of(tmp_path, database, address, commit_seconds=0.05)
        async with asyncio.timeout(20):
            await write_for_ever(me, settings, store, report, stopping)
    assert reported == ["servers.disk_usage"]
    assert count(database, "quarantine") == 2


def test_no_products_at_all_is_a_wrong_setting(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings_of(tmp_path, database, "none:1").model_dump(exclude_unset=True)
    for name, value in given.items():
        monkeypatch.setenv(f"TELLTALE_{name.upper()}", str(value))
    assert WriterSettings.read().products == ("*",)
    monkeypatch.setenv("TELLTALE_PRODUCTS", "")
    with pytest.raises(ConfigurationError, match=r"TELLTALE_PRODUCTS: .*names no product"):
        WriterSettings.read()
