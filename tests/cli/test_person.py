"""What a person sees through the gateway, with the groups of the login and a policy that speaks of them."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from telltale.cli import login as command
from telltale.cli.home import Home
from telltale.cli.products import inventory, products
from telltale.domain.service import DomainSettings, serving_domain
from telltale.errors import NotFound, PermissionMissing, Unavailable
from telltale.source.source import Source, SourceSettings
from tests.cli.test_login import Running, authority, browser
from tests.gateway.wire import gateway_service
from tests.support.batches import INVENTORY, SERVERS, host
from tests.support.domain import free_port
from tests.support.mesh import Mesh
from tests.support.provider import Provider, serving


@pytest.fixture
def provider() -> Iterator[Provider]:
    with serving() as provider:
        yield provider


POLICY = """
@id("agents-publish")
permit (principal in Domain::"servers", action == Action::"push", resource in Domain::"servers");
@id("gateway")
permit (principal in Domain::"platform", action in [Action::"discover", Action::"subscribe"], resource);
@id("responders-read")
permit (principal in Group::"responders", action in [Action::"discover", Action::"list"], resource);
@id("visitors-look")
permit (principal in Group::"visitors", action == Action::"discover", resource);
"""


async def test_what_a_person_sees_and_lists_is_decided_by_the_groups_of_the_login(
    tmp_path: Path, provider: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh = Mesh.create(tmp_path / "mesh", "operators", "servers", "platform")
    policy = tmp_path / "policy.cedar"
    policy.write_text(POLICY)
    port = free_port()
    nobody = f"127.0.0.1:{free_port()}"
    service = mesh.workload("servers", "/service", [mesh.server_name("service", "servers")])
    agent = mesh.workload("servers", "/agent/web1")
    async with gateway_service(mesh, tmp_path / "gateway") as gateway:
        settings = DomainSettings(
            mesh=mesh.name,
            state=tmp_path / "servers",
            trust=mesh.home.trust,
            authority=nobody,
            enrollment=nobody,
            listen=f"127.0.0.1:{port}",
            advertise=f"127.0.0.1:{port}",
            gateway=f"127.0.0.1:{gateway.port}",
            platform=nobody,
        )
        spool = SourceSettings(
            tmp_path / "spool.db", settings.advertise, service.spiffe_id.trust_domain, 1 << 24
        )
        async with (
            serving_domain(service, settings, "servers", policy),
            Source(agent, spool, SERVERS) as source,
            authority(tmp_path, provider, f"127.0.0.1:{gateway.port}", mesh) as (_, address),
        ):
            await source.publish(INVENTORY, [host("web1")])
            running = Running(mesh, provider, address, Home.at(tmp_path / "laptop"), capsys)
            await running.login(browser=browser)
            async with asyncio.timeout(30):
                while not await listed(running):  # noqa: ASYNC110 -- a lease tells no event
                    await asyncio.sleep(0.05)
            assert (await shown(running, products))[0]["product"].startswith("servers.")
            await command.logout(running.home)
            provider.person = {"sub": "u-2", "preferred_username": "bob", "groups": ["/mesh/visitors"]}
            await running.login(browser=browser)
            assert (await shown(running, products))[0]["product"].startswith("servers.")
            with pytest.raises(PermissionMissing, match="person/bob lacks the permission `list`"):
                await inventory(running.home, INVENTORY, condition="", as_json=True)


async def listed(running: Running) -> list[str]:
    """Names of the hosts that the person may list; none until their domain has its lease."""
    try:
        rows = await shown(running, partial(inventory, product=INVENTORY, condition=""))
    except (NotFound, Unavailable):
        return []
    return [row["host_name"] for row in rows]


async def shown(running: Running, asking: Callable[..., Awaitable[None]]) -> Any:
    """What a command prints, among what the servers of this process log."""
    running.capsys.readouterr()
    await asking(running.home, as_json=True)
    out = running.capsys.readouterr().out
    begin = re.search(r"^\[(?=[\n\]])", out, re.MULTILINE)
    assert begin, out
    return json.JSONDecoder().raw_decode(out[begin.start() :])[0]
