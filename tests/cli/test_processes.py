"""Which processes a mesh has, where they listen, and what each is told."""

import json
import os
import socket
from pathlib import Path

import pytest

from telltale.cli.home import Home
from telltale.cli.processes import LOOPBACK, Plan, free_ports, host_name, is_free, plan
from telltale.errors import Precondition
from telltale.naming import SpiffeId

MESH = "telltale.test"


@pytest.fixture
def planned(tmp_path: Path) -> Plan:
    return plan(Home.at(tmp_path), MESH, free_ports(1, but=0)[0])


def test_every_process_has_a_directory_a_log_and_an_address_of_its_own(planned: Plan) -> None:
    programs = planned.programs()
    assert len({program.directory for program in programs}) == len(programs)
    assert len({program.log for program in programs}) == len(programs)
    assert len(set(planned.addresses.values())) == len(planned.addresses)
    assert all(address.startswith(f"{LOOPBACK}:") for address in planned.addresses.values())


def test_the_agent_binds_no_port_and_is_told_of_none(planned: Plan) -> None:
    agent = next(program for program in planned.programs() if program.name == "agent")
    assert agent.port is None
    assert "TELLTALE_LISTEN" not in agent.environment
    assert agent.environment["TELLTALE_SERVICE"] == planned.addresses["servers"]


def test_authorities_start_first_and_the_source_last(planned: Plan) -> None:
    names = [program.name for program in planned.programs()]
    assert names[0] == "authorities"
    assert names[-1] == "agent"


def test_each_domain_has_its_own_authority_in_the_one_process(planned: Plan) -> None:
    authorities = json.loads(planned.programs()[0].environment["TELLTALE_AUTHORITIES"])
    assert [Path(one["directory"]).name for one in authorities] == list(planned.domains)
    assert set(planned.domains) == {"platform", "servers", "network", "analysis", "operators"}


def test_authorities_tell_newcomers_where_to_push_and_know_whose_tokens_invite(planned: Plan) -> None:
    environment = planned.programs()[0].environment
    told = {
        Path(one["directory"]).name: one["service_address"]
        for one in json.loads(environment["TELLTALE_AUTHORITIES"])
    }
    assert told["servers"] == planned.addresses["servers"]
    # Operators push to nobody.
    assert told["operators"] == ""
    assert environment["TELLTALE_TRUST"] == str(planned.home.trust)


def test_authorities_follow_each_other(planned: Plan) -> None:
    for one in json.loads(planned.programs()[0].environment["TELLTALE_AUTHORITIES"]):
        others = set(planned.domains) - {Path(one["directory"]).name}
        assert one["peers"] == {domain: planned.addresses[f"authority of {domain}"] for domain in others}


def test_the_agent_alone_joins_as_on_any_other_host(planned: Plan) -> None:
    assert [process.name for process in planned.processes if process.joins] == ["agent"]
    for program in planned.programs():
        assert ("TELLTALE_JOIN_TOKEN_FILE" in program.environment) == (
            program.name not in ("agent", "authorities")
        )


def test_the_gateway_dials_services_where_they_listen_and_nowhere_else(planned: Plan) -> None:
    gateway = next(program for program in planned.programs() if program.name == "gateway")
    assert gateway.environment["TELLTALE_DOMAIN_ADDRESSES"] == f"{LOOPBACK}/32"


def test_an_address_that_is_not_of_this_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Precondition, match=r"203\.0\.113\.77 is no address of this machine"):
        plan(Home.at(tmp_path), MESH, 7443, "203.0.113.77")


def test_nothing_secret_is_in_arguments_or_environment(
    planned: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    for program in planned.programs():
        told = " ".join([*program.command, *program.environment, *program.environment.values()])
        assert "join-" not in told.replace("join-token", "")
        assert "hunter2" not in told


def test_settings_of_the_terminal_reach_the_processes_and_never_override_the_plan(
    planned: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELLTALE_INTERVALS", "servers.cpu=1s")
    monkeypatch.setenv("TELLTALE_STATE", "/somewhere/else")
    agent = planned.programs()[-1]
    assert agent.environment["TELLTALE_INTERVALS"] == "servers.cpu=1s"
    assert agent.environment["TELLTALE_STATE"] == str(agent.directory)


def test_server_names_belong_to_the_processes_that_serve(planned: Plan) -> None:
    names = {process.name: process.dns(MESH) for process in planned.processes}
    assert names["gateway"] == (f"gateway.platform.{MESH}", "localhost")
    assert names["servers"] == (f"service.servers.{MESH}",)
    assert names["agent"] == ()


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("web1", "web1"),
        ("Web1.Example.ORG", "web1.example.org"),
        ("..", "host"),
        ("", "host"),
        ("a/b c", "a-b-c"),
        ("é", "host"),
        ("x" * 200, "x" * 63),
    ],
)
def test_every_host_has_a_name_that_fits_into_a_spiffe_id(name: str, safe: str) -> None:
    assert host_name(name) == safe
    assert SpiffeId.parse(f"spiffe://servers.{MESH}/agent/{safe}").path == f"/agent/{safe}"


def test_a_taken_gateway_port_is_refused_with_the_option_that_helps(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(Precondition, match=f"port {port} is taken; choose another with --port"):
            plan(Home.at(tmp_path), MESH, port)


def test_free_ports_are_different_and_none_that_the_kernel_hands_out() -> None:
    ports = free_ports(50, but=0)
    assert len(set(ports)) == 50
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert low < 32768 or all(port < low for port in ports)


def test_the_command_line_is_told_where_the_mesh_is(planned: Plan) -> None:
    mesh = planned.running()
    assert mesh.gateway == planned.addresses["gateway"]
    assert mesh.pid == os.getpid()
    assert mesh.authorities["servers"] == planned.addresses["authority of servers"]
