"""A copied home directory: two agents with one key become a finding, and neither loses a record."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running_mesh import PATIENCE_SECONDS, ROOT, RunningMesh, environment, eventually, up

pytestmark = [pytest.mark.xdist_group("clones"), pytest.mark.timeout(240)]


def memory_batches(mesh: RunningMesh) -> int:
    found = mesh.query("SELECT count(*) AS n FROM batches WHERE product = 'servers.memory'")
    return int(found[0]["n"]) if found else 0


def test_a_second_agent_with_a_copied_home_directory_becomes_a_finding(tmp_path: Path) -> None:
    often = {"TELLTALE_COLLECT": "servers.memory", "TELLTALE_INTERVALS": "servers.memory=1s"}
    with up(tmp_path / "home", settings=often) as mesh:
        eventually(lambda: memory_batches(mesh) > 2, "batches of the agent", mesh)
        copy = shutil.copytree(mesh.home / "state" / "agent", tmp_path / "copy")
        before = memory_batches(mesh)
        eventually(lambda: memory_batches(mesh) > before + 2, "batches behind the copy", mesh)
        with (tmp_path / "copy.log").open("w") as log:
            clone = subprocess.Popen(
                [sys.executable, "-P", "-m", "agent"],
                cwd=ROOT,
                env={**environment(), **often, "TELLTALE_STATE": str(copy)},
                stdout=log,
                stderr=log,
            )
            try:
                (found,) = eventually(
                    lambda: [one for one in mesh.json("findings") if one["detection"] == "cloned_identity"],
                    f"the finding: {(tmp_path / 'copy.log').read_text()}",
                    mesh,
                )
            finally:
                clone.send_signal(signal.SIGTERM)
                clone.wait(PATIENCE_SECONDS)
        assert found["severity"].endswith("CRITICAL") and found["source"].startswith("spiffe://servers.")
        assert not mesh.query("SELECT * FROM holes")
