"""One mesh for all end-to-end tests that only look at it."""

from collections.abc import Iterator

import pytest

from tests.support.running_mesh import RunningMesh, eventually, up


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    home = tmp_path_factory.mktemp("mesh") / "home"
    with up(home) as running:
        eventually(
            lambda: running.query("SELECT host_name FROM servers_inventory"), "a row in the database", running
        )
        yield running
