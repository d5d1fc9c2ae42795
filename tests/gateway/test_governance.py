"""Governance on the real wire: contracts by reflection, policies from their owners, through the gateway."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from telltale.api.mesh.v1.access_pb2 import CheckRequest, DescribePolicyRequest
from telltale.api.mesh.v1.access_pb2_grpc import AccessStub
from telltale.cli.governance import judged
from telltale.cli.home import Mesh as Place
from telltale.cli.operator import Operator
from telltale.contract.governance import Violation
from tests.gateway.realdomain import POLICY, servers
from tests.gateway.wire import Gateway, gateway_service
from tests.support.domain import free_port
from tests.support.mesh import Mesh

WIDE = """
@id("gateway")
permit (principal in Domain::"platform", action, resource) when { principal.path == "/gateway" };
@id("operators")
permit (principal in Domain::"operators", action in [Action::"discover", Action::"see"], resource);
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh.create(tmp_path_factory.mktemp("mesh"), "platform", "servers", "network", "operators")


@pytest.fixture
async def gateway(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway_service(mesh, tmp_path / "gateway") as one:
        yield one


@contextlib.asynccontextmanager
async def operator(gateway: Gateway) -> AsyncIterator[Operator]:
    """An operator without groups, as the command line is one."""
    me = gateway.mesh.workload("operators", "/ann")
    async with gateway.channel(me) as channel:
        yield Operator(me, Place(gateway.mesh.name, f"localhost:{gateway.port}", "", "", 0), channel)


async def violations(gateway: Gateway) -> list[Violation]:
    async with operator(gateway) as mesh, asyncio.timeout(30):
        while not (entries := await mesh.catalog()):  # noqa: ASYNC110 - the domain registers by itself
            await asyncio.sleep(0.05)
        return await judged(mesh, entries, await mesh.image())


async def test_a_domain_that_is_in_order_has_nothing_to_mend(
    mesh: Mesh, gateway: Gateway, tmp_path: Path
) -> None:
    async with servers(mesh, gateway, tmp_path / "servers", free_port()):
        assert await violations(gateway) == []


async def test_a_rule_that_is_too_wide_is_found_from_outside(
    mesh: Mesh, gateway: Gateway, tmp_path: Path
) -> None:
    wide = tmp_path / "policy.cedar"
    wide.write_text(WIDE)
    async with servers(mesh, gateway, tmp_path / "servers", free_port(), wide):
        found = await violations(gateway)
    assert {one.element for one in found} == {'the rule @id("operators")'}
    assert {one.wrong for one in found} == {"permits `see personal` to an operator in no group"}
    assert {"servers.accounts", "servers.logins"} <= {one.product for one in found}
    assert "servers.cpu" not in {one.product for one in found}, "it has no field that names people"


async def test_a_policy_that_cannot_be_had_is_not_in_order(
    mesh: Mesh, gateway: Gateway, tmp_path: Path
) -> None:
    async with servers(mesh, gateway, tmp_path / "servers", free_port()):
        await violations(gateway)
        async with operator(gateway) as one:
            entries, image = await one.catalog(), await one.image()
    async with operator(gateway) as one:
        found = await judged(one, entries, image)
    assert {(each.rule, each.mandatory) for each in found} == {("policy", True)}
    assert {each.product for each in found} == {entry.product.name for entry in entries}
    assert all("cannot be judged" in each.wrong for each in found)


async def test_a_policy_is_for_those_who_may_discover_what_it_is_over(
    mesh: Mesh, gateway: Gateway, tmp_path: Path
) -> None:
    async with servers(mesh, gateway, tmp_path / "servers", free_port()):
        await violations(gateway)
        request = DescribePolicyRequest(trust_domain=mesh.trust_domain("servers"))
        ann, agent = mesh.workload("operators", "/ann"), mesh.workload("servers", "/agent/web1")
        async with gateway.channel(ann) as channel:
            stub, metadata = AccessStub(channel), await gateway.metadata(ann)
            assert (await stub.DescribePolicy(request, metadata=metadata)).policy == POLICY.read_text()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Check(CheckRequest(), metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            unknown = DescribePolicyRequest(trust_domain=mesh.trust_domain("network"))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.DescribePolicy(unknown, metadata=metadata)
            # Soon after its start a gateway does not know yet who will come.
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        async with gateway.channel(agent) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await AccessStub(channel).DescribePolicy(request, metadata=await gateway.metadata(agent))
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
