"""What an agent does not carry: each of these would be megabytes on every host, for nothing."""

import subprocess
import sys

import pytest

# What those carry that keep, decode or show what an agent sends.
_HEAVY = (
    "opentelemetry.sdk",
    "cedarpy",
    "duckdb",
    "pyarrow",
    "ptars",
    "click",
    "ctypes",
    "telltale.cli",
    "telltale.consume",
    "telltale.domain",
)


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The modules of a process that has imported all that an agent runs."""
    program = "import sys, agent.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", _HEAVY)
def test_the_agent_runs_without(module: str, loaded: set[str]) -> None:
    assert "agent.runner" in loaded
    assert module not in loaded
