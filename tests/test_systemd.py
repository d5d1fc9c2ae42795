"""The units of systemd: well formed, and with the powers that compose.yaml gives, and no others."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "deploy" / "systemd" / "telltale-agent.service"
SERVER = UNIT.with_name("telltale@.service")
RECEIVER = UNIT.with_name("telltale-receiver.service")


def values(name: str, unit: Path = UNIT) -> list[str]:
    """What the unit sets, word by word."""
    return [
        word
        for line in re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)
        for word in line.split()
    ]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", [UNIT, SERVER, RECEIVER], ids=lambda unit: unit.name)
def test_systemd_takes_every_line_of_the_unit(tmp_path: Path, unit: Path) -> None:
    copy = tmp_path / unit.name.replace("@", "@gateway")
    # The program need not be on this machine.
    copy.write_text(unit.read_text().replace("/opt/telltale/bin/python", "/bin/true"))
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


def test_a_server_has_no_power_in_a_unit_as_in_a_container() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    servers = {name: one for name, one in services.items() if name not in ("init", "agent")}
    assert servers and all(one["cap_drop"] == ["ALL"] and "cap_add" not in one for one in servers.values())
    assert re.search("^CapabilityBoundingSet=$", SERVER.read_text(), re.MULTILINE)
    assert not values("AmbientCapabilities", SERVER)
    for name in ("NoNewPrivileges", "DynamicUser", "ProtectHome", "PrivateDevices"):
        assert values(name, SERVER) == ["yes"], name
    assert values("ProtectSystem", SERVER) == ["strict"] and values("LimitCORE", SERVER) == ["0"]


def test_every_directive_of_the_servers_unit_stands_once() -> None:
    names = re.findall(r"^(\w+)=", SERVER.read_text(), re.MULTILINE)
    assert sorted(names) == sorted(set(names)) and len(names) > 30


def test_a_receiver_has_no_power_and_binds_nothing_but_udp_in_a_unit() -> None:
    assert re.search("^CapabilityBoundingSet=$", RECEIVER.read_text(), re.MULTILINE)
    assert not values("AmbientCapabilities", RECEIVER)
    assert (values("SocketBindAllow", RECEIVER), values("SocketBindDeny", RECEIVER)) == (["udp"], ["any"])
    for name in ("NoNewPrivileges", "DynamicUser", "ProtectHome", "PrivateDevices"):
        assert values(name, RECEIVER) == ["yes"], name
    assert values("ProtectSystem", RECEIVER) == ["strict"] and values("LimitCORE", RECEIVER) == ["0"]
