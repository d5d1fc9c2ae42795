"""A writer's database, and batches delivered to it as a subscription would."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.writer.store import Store
from tests.support.mesh import Mesh


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh.create(tmp_path_factory.mktemp("mesh"), "servers", "platform")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "telltale.sqlite"


@pytest.fixture
async def store(database: Path) -> AsyncIterator[Store]:
    async with Store(database) as opened:
        yield opened


@pytest.fixture
def now() -> Callable[[], datetime]:
    return lambda: datetime.now(UTC)
