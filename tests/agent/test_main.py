"""The agent as a program: what it loads, and what its health check answers."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent import status_file
from agent.status import AgentStatus, CollectorStatus, State


def python(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TELLTALE_")}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    return {
        "TELLTALE_STATE": str(tmp_path),
        "TELLTALE_TRUST": str(tmp_path),
        "TELLTALE_AUTHORITY": "127.0.0.1:1",
        "TELLTALE_ENROLLMENT": "127.0.0.1:2",
        "TELLTALE_SERVICE": "127.0.0.1:3",
    }


def test_an_agent_loads_neither_columns_nor_sql_nor_what_draws_or_serves() -> None:
    heavy = ("pyarrow", "ptars", "duckdb", "cedarpy", "click", "sqlite_utils", "http.server", "numpy")
    program = f"import sys, agent.__main__; print([name for name in {heavy} if name in sys.modules])"
    assert python("-c", program).stdout == "[]\n"


def test_a_missing_setting_is_one_line_that_names_it(variables: dict[str, str]) -> None:
    del variables["TELLTALE_SERVICE"]
    ended = python("-m", "agent", **variables)
    assert ended.returncode == 2
    assert ended.stderr == "agent: TELLTALE_SERVICE: field required\n"


def test_the_health_check_answers_by_its_exit_status(variables: dict[str, str], tmp_path: Path) -> None:
    ended = python("-m", "agent", "--check", **variables)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "has not joined or not started" in ended.stderr
    status = CollectorStatus("servers.cpu", 10.0, State.OK, "", 0, 0.1, 1, 0, 5, 0)
    told = AgentStatus({"servers.cpu": status})
    status_file.write(tmp_path, told, "spiffe://a.example/agent/a", None, time.time() + 3600)
    ended = python("-m", "agent", "--check", **variables)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("spiffe://a.example/agent/a: 1 of 1 collectors work")
