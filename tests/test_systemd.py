"""The unit of systemd: well formed, and with the powers that compose.yaml gives the agent, and no others."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "deploy" / "systemd" / "telltale-agent.service"


def values(name: str) -> list[str]:
    """What the unit sets, word by word."""
    return [
        word
        for line in re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)
        for word in line.split()
    ]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_every_line_of_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    # The program need not be on this machine.
    copy.write_text(UNIT.read_text().replace("/opt/telltale/bin/python", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_agent_has_the_same_powers_in_a_container_and_in_a_unit() -> None:
    agent = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["agent"]
    expected = {f"CAP_{name}" for name in agent["cap_add"]}
    assert set(values("CapabilityBoundingSet")) == set(values("AmbientCapabilities")) == expected
    assert values("NoNewPrivileges") == ["yes"]
    documented = (ROOT / "docs" / "agent.md").read_text()
    assert all(f"`{name}`" in documented for name in expected)


def test_the_unit_lets_no_port_be_bound_and_no_core_be_dumped() -> None:
    assert values("SocketBindDeny") == ["any"]
    assert values("LimitCORE") == ["0"]
