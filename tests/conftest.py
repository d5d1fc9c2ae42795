"""What holds for every test, and the one mesh of real processes for all tests that only look at it."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.running_mesh import RunningMesh, eventually, up, write_manifest

# Time never decides a test. Developers explore new examples each time; what decides a change is repeatable.
settings.register_profile("telltale", deadline=None, derandomize="CI" in os.environ)
# `make fuzz`: minutes instead of seconds, and new examples always.
settings.register_profile("fuzz", deadline=None, max_examples=5_000)
settings.load_profile("telltale")


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """Who uses it is of the group `mesh`: it lives in one worker."""
    directory = tmp_path_factory.mktemp("mesh")
    home, manifest = directory / "home", write_manifest(directory)
    with up(home, "--receive", str(manifest)) as running:
        eventually(
            lambda: running.query("SELECT host_name FROM servers_inventory"), "a row in the database", running
        )
        yield running
