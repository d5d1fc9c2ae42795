"""What every test of the command line needs."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command quietens its process; run inside the tests' it must not quieten those that come after."""
    yield
    structlog.reset_defaults()
