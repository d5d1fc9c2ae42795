"""Every product of the mesh has its tables before anybody sends a batch of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.writer.catalog import foresee_for_ever
from services.writer.settings import WriterSettings
from services.writer.store import Store
from telltale.cli.sql import run_query
from telltale.contract.image import own_image
from telltale.errors import TelltaleError
from tests.support.batches import CONTRACTS, DISK_USAGE, SERVERS, Chain, disk_usage
from tests.support.deliveries import Log
from tests.support.gateways import Gateway, running_gateway
from tests.support.mesh import Mesh


@asynccontextmanager
async def looking(mesh: Mesh, store: Store, gateway: Gateway, **values: Any) -> AsyncIterator[None]:
    """A writer that looks for products while the body runs."""
    async with running_gateway(mesh, gateway) as address, asyncio.TaskGroup() as tasks:
        settings = WriterSettings(
            state=mesh.home.trust,
            trust=mesh.home.trust,
            authority="none:1",
            enrollment="none:1",
            gateway=address,
            platform="none:1",
            database=Path("unused"),
            catalog_seconds=0.02,
            **values,
        )
        task = tasks.create_task(foresee_for_ever(mesh.workload("platform", "/writer"), settings, store))
        yield
        task.cancel()


async def until_known(database: Path, products: int) -> None:
    async with asyncio.timeout(20):
        while len(known(database)) < products:  # noqa: ASYNC110  # the database is another process's, as it were
            await asyncio.sleep(0.02)


def known(database: Path) -> dict[str, Any]:
    return dict(run_query(database, "SELECT product, first_stored_time FROM products").rows)


async def test_a_quiet_product_has_empty_tables_with_all_its_columns(
    mesh: Mesh, store: Store, database: Path
) -> None:
    gateway = Gateway()
    gateway.files = SERVERS.files
    async with looking(mesh, store, gateway):
        await until_known(database, len(CONTRACTS))
    assert known(database) == dict.fromkeys(CONTRACTS)
    for table in ("servers_units", "servers_units_history", "servers_logins"):
        answer = run_query(database, f"SELECT * FROM {table}")
        assert answer.rows == [] and {"time", "_source", "_verified"} <= set(answer.columns)
    await store.commit(
        [Log().deliver(Chain(mesh.credentials("servers", "/agent/web1")).next([disk_usage("/")]))]
    )
    assert [name for name, first in known(database).items() if first is not None] == [DISK_USAGE]


async def test_products_that_appear_later_are_found_and_others_are_left_alone(
    mesh: Mesh, store: Store, database: Path
) -> None:
    gateway = Gateway()
    gateway.files = own_image("platform").files
    async with looking(mesh, store, gateway, products="mesh.*,servers.disk_*"):
        await until_known(database, 3)
        gateway.files = {**gateway.files, **SERVERS.files}
        await until_known(database, 5)
    mesh_products = {"mesh.audit", "mesh.processes", "mesh.refusals"}
    assert set(known(database)) == {*mesh_products, "servers.disk_io", DISK_USAGE}
    with pytest.raises(TelltaleError, match="servers_units"):
        run_query(database, "SELECT * FROM servers_units")


async def test_a_gateway_that_shows_what_breaks_a_rule_gets_no_table_and_is_asked_again(
    mesh: Mesh, store: Store, database: Path
) -> None:
    gateway = Gateway()
    name = "telltale/api/servers/v1/units.proto"
    broken = SERVERS.files[name].replace(b"servers.units", b"network.units")
    gateway.files = {**SERVERS.files, name: broken}
    async with looking(mesh, store, gateway):
        async with asyncio.timeout(20):
            while gateway.looks < 2:  # noqa: ASYNC110  # the gateway counts, it does not tell
                await asyncio.sleep(0.02)
        assert known(database) == {}
        gateway.files = SERVERS.files
        await until_known(database, len(CONTRACTS))
