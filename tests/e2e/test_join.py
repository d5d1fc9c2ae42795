"""A host of another network joins with what an operator hands it, and its records arrive."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.network import Elsewhere, elsewhere
from tests.support.running_mesh import BIN, PATIENCE_SECONDS, ROOT, RunningMesh, environment, eventually, up

# One mesh, one second network: on one worker.
pytestmark = pytest.mark.xdist_group("join")


@pytest.fixture(scope="module")
def network() -> Iterator[Elsewhere]:
    with elsewhere() as there:
        yield there


@pytest.fixture(scope="module")
def reachable(tmp_path_factory: pytest.TempPathFactory, network: Elsewhere) -> Iterator[RunningMesh]:
    """A mesh that listens where the other network can reach it."""
    with up(tmp_path_factory.mktemp("join") / "home", "--address", network.here) as mesh:
        eventually(
            lambda: mesh.query("SELECT host_name FROM servers_inventory"), "a row in the database", mesh
        )
        yield mesh


def invite(mesh: RunningMesh, host: str) -> dict[str, Any]:
    invitation = mesh.json("agent", "token", host)
    assert isinstance(invitation, dict)
    return invitation


def join_words(invitation: dict[str, Any], state: Path, *, root: str = "") -> tuple[str, ...]:
    return (
        *(str(BIN / "telltale"), "agent", "join", invitation["address"], "--token-file", "-"),
        *("--root", root or invitation["root_sha256"], "--state", str(state)),
    )


def join(
    network: Elsewhere, invitation: dict[str, Any], state: Path, *, root: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Joins from the other network, without running the agent."""
    return subprocess.run(
        network.command(*join_words(invitation, state, root=root), "--no-run"),
        input=invitation["token"],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@contextlib.contextmanager
def running(
    command: list[str], log: Path, typed: str = "", settings: dict[str, str] | None = None
) -> Iterator[None]:
    """Runs an agent while the body runs, and stops it as a service manager does."""
    with log.open("a") as output:
        process = subprocess.Popen(
            command,
            env={**environment(), **(settings or {})},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            text=True,
        )
        try:
            assert process.stdin is not None
            process.stdin.write(typed)
            process.stdin.close()
            yield
            assert process.poll() is None, log.read_text()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) == 0, log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def rows(mesh: RunningMesh, host: str) -> int:
    source = f"spiffe://servers.telltale.internal/agent/{host}"
    found = mesh.query(f"SELECT count(*) AS rows FROM servers_memory WHERE _source = '{source}'")
    return int(found[0]["rows"]) if found else 0


def interfaces(mesh: RunningMesh, host: str) -> set[str]:
    source = f"spiffe://servers.telltale.internal/agent/{host}"
    found = mesh.query(f"SELECT DISTINCT interface FROM servers_network_io WHERE _source = '{source}'")
    return {row["interface"] for row in found}


def test_a_host_of_another_network_joins_and_its_records_arrive_and_do_so_after_a_restart(
    reachable: RunningMesh, network: Elsewhere, tmp_path: Path
) -> None:
    invitation = invite(reachable, "far1")
    assert invitation["spiffe_id"] == "spiffe://servers.telltale.internal/agent/far1"
    assert invitation["address"].startswith(f"{network.here}:")
    state, log = tmp_path / "state", tmp_path / "agent.log"
    collect = {
        "TELLTALE_COLLECT": "servers.memory,servers.network_io",
        "TELLTALE_INTERVALS": "servers.memory=1s",
    }
    with running(network.command(*join_words(invitation, state)), log, invitation["token"], collect):
        eventually(lambda: rows(reachable, "far1"), f"a row of far1: {log.read_text()}", reachable)
        # It tells of the other network's interfaces: of that host, not of this one.
        told = eventually(lambda: interfaces(reachable, "far1"), "interfaces of far1", reachable)
        assert "lo" in told
        assert told.isdisjoint(set(os.listdir("/sys/class/net")) - {"lo"})
    before = rows(reachable, "far1")
    # A later start needs the directory and nothing else.
    plain = network.command(str(BIN / "python"), "-P", "-m", "agent")
    with running(plain, log, settings={**collect, "TELLTALE_STATE": str(state)}):
        eventually(lambda: rows(reachable, "far1") > before, f"another row: {log.read_text()}", reachable)


def test_a_wrong_root_is_refused_and_the_token_stays_good(
    reachable: RunningMesh, network: Elsewhere, tmp_path: Path
) -> None:
    invitation = invite(reachable, "far2")
    refused = join(network, invitation, tmp_path / "state", root="00" * 32)
    assert refused.returncode == 1
    assert "shows no root certificate with the SHA-256" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "state").exists()
    assert join(network, invitation, tmp_path / "state").returncode == 0


def test_a_token_used_twice_is_refused_for_another_key_and_not_for_the_same(
    reachable: RunningMesh, network: Elsewhere, tmp_path: Path
) -> None:
    invitation = invite(reachable, "far3")
    assert join(network, invitation, tmp_path / "state").returncode == 0
    assert join(network, invitation, tmp_path / "state").returncode == 0
    stolen = join(network, invitation, tmp_path / "elsewhere")
    assert stolen.returncode == 1
    assert "used with another key; ask for a new one" in stolen.stderr
    assert stolen.stderr.count("\n") == 1


def test_who_invited_whom_and_every_refusal_is_in_the_authoritys_log(
    reachable: RunningMesh, network: Elsewhere, tmp_path: Path
) -> None:
    invitation = invite(reachable, "far4")
    assert join(network, invitation, tmp_path / "one").returncode == 0
    assert join(network, invitation, tmp_path / "two").returncode == 1
    log = (reachable.home / "logs" / "authorities.log").read_text()
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    (invited,) = [
        event
        for event in events
        if event["event"] == "invited" and event["spiffe_id"] == invitation["spiffe_id"]
    ]
    assert invited["by"] == "spiffe://operators.telltale.internal/command-line"
    refused = [event for event in events if event["event"] == "enrolment refused"]
    assert any("used with another key" in event["reason"] for event in refused)
    assert any(
        network.there in event["peer"] and event["claimed"] == invitation["spiffe_id"] for event in refused
    )
    assert invitation["token"].partition("@")[0].removeprefix("join-") not in log


def test_who_joined_from_where_and_whose_token_was_stolen_is_in_the_audit_log(
    reachable: RunningMesh, network: Elsewhere, tmp_path: Path
) -> None:
    invitation = invite(reachable, "far5")
    assert join(network, invitation, tmp_path / "one").returncode == 0
    assert join(network, invitation, tmp_path / "two").returncode == 1

    def told() -> list[tuple[Any, ...]]:
        rows = reachable.query(
            "SELECT action, allowed::BOOLEAN AS allowed, principal, address FROM mesh_audit"
            f" WHERE subject = '{invitation['spiffe_id']}' ORDER BY time"
        )
        return [(row["action"], row["allowed"], row["principal"], row["address"]) for row in rows]

    eventually(lambda: len(told()) == 3, f"three records: {told()}", reachable)
    operator, host = "spiffe://operators.telltale.internal/command-line", invitation["spiffe_id"]
    assert told() == [
        ("invite", True, operator, network.here),
        ("enroll", True, host, network.there),
        ("enroll", False, host, network.there),
    ]
