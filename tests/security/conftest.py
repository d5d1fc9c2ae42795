"""Who attacks, and what holds after every attack."""

from collections.abc import Iterator

import pytest

from telltale.identity.workload import Workload
from tests.support.attacker import Attacker
from tests.support.running_mesh import RunningMesh

MEMBERS = (
    "certs",
    "services.platform",
    "gateway",
    "services.servers",
    "services.network",
    "services.writer",
    "services.analysis",
    "agent",
    "agent.receiver",
)


@pytest.fixture
def attacker(mesh: RunningMesh) -> Iterator[Attacker]:
    """After every attack the same processes run on, and none of them was surprised."""
    members = {module: mesh.pid(module) for module in MEMBERS}
    yield Attacker(mesh)
    assert {module: mesh.pid(module) for module in MEMBERS} == members
    for log in (mesh.home / "logs").glob("*.log"):
        assert "call failed" not in log.read_text(), mesh.logs()


@pytest.fixture
async def mallory(attacker: Attacker) -> Workload:
    """An agent of the mesh that has turned hostile."""
    return await attacker.enrol("servers", "/agent/mallory")


@pytest.fixture
async def eve(attacker: Attacker) -> Workload:
    """An operator who wants more than to look."""
    return await attacker.enrol("operators", "/eve")
