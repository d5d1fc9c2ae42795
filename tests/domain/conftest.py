"""One running servers domain for each test that wants it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.domain import DOMAINS, Running, running
from tests.support.mesh import Mesh


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.create(tmp_path / "mesh", *DOMAINS)


@pytest.fixture
async def servers(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(mesh, tmp_path) as service:
        yield service
