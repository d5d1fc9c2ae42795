"""A short campaign, always the same one: `make chaos` is the long one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.schedule import MEMBERS
from tests.support.running_mesh import ROOT, environment

# Every process once.
KILLS, FLEET = len(MEMBERS) + 2, 10

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(600)]


def test_whatever_is_killed_or_cut_off_under_load_no_acked_record_is_lost_doubled_or_disordered(
    tmp_path: Path,
) -> None:
    result = tmp_path / "result.json"
    command = [
        *(sys.executable, "-m", "tests.chaos", "--brief", "--seed", "196", "--json", str(result)),
        *("--kills", str(KILLS), "--fleet", str(FLEET), "--directory", str(tmp_path / "campaign")),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    compared, outcome = found["comparisons"]["faults"], found["outcome"]
    assert found["holds"] and not any(compared["first"].values())
    # The servers' service is killed once more, under the fleet.
    assert outcome["kills"] == {**dict.fromkeys((*MEMBERS, "load-1", "load-2"), 1), "servers": 2}
    assert set(outcome["faults"]) >= {"kill", "stall", "cut"} and outcome["recovery_seconds"].keys() >= set(
        MEMBERS
    )
    assert compared["records_stored"] >= compared["records_sealed"] > 20 * KILLS
    assert compared["chains"] > 2 * FLEET and outcome["fleet_reconnect_seconds"] > 0
