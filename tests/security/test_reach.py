"""From no server of the mesh does a way lead to a monitored host: no address, no port, no credential."""

import re

import psutil
import pytest

from tests.support.attacker import STATES, Attacker

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]

SERVERS = ("certs", *(module for module in STATES if not module.startswith("agent")))
_ADDRESS = re.compile(r"(?:\d+\.\d+\.\d+\.\d+|localhost|\[[0-9a-f:]+\]):(\d+)")


def listening(process: psutil.Process) -> set[int]:
    return {
        one.laddr.port for one in process.net_connections(kind="inet") if one.status == psutil.CONN_LISTEN
    }


def test_the_agent_can_be_called_by_nobody(attacker: Attacker) -> None:
    agent = psutil.Process(attacker.mesh.pid("agent"))
    # Every socket of the agent is one that it has connected: nothing is bound to wait for somebody.
    for one in agent.net_connections(kind="inet"):
        assert one.raddr and one.status != psutil.CONN_LISTEN, one
    for one in agent.net_connections(kind="unix"):
        assert not one.laddr, one


@pytest.mark.parametrize("module", SERVERS)
def test_a_server_knows_the_addresses_of_servers_and_of_no_host(attacker: Attacker, module: str) -> None:
    ports = set().union(*(listening(psutil.Process(attacker.mesh.pid(one))) for one in SERVERS))
    told = {
        int(port)
        for name, value in attacker.environment(module).items()
        if name.startswith("TELLTALE_")
        for port in _ADDRESS.findall(value)
    }
    assert told <= ports
    # And it has connected to nobody but those.
    for one in psutil.Process(attacker.mesh.pid(module)).net_connections(kind="inet"):
        if one.raddr and one.laddr.port not in ports:
            assert one.raddr.port in ports, one


@pytest.mark.parametrize("module", SERVERS)
def test_a_server_runs_no_program(attacker: Attacker, module: str) -> None:
    """No remote shell, no copy of files: what would reach a host by other means."""
    assert psutil.Process(attacker.mesh.pid(module)).children(recursive=True) == []
