"""A person of a foreign OpenID Connect provider logs in to a whole mesh, from here and from elsewhere."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.domain import free_port
from tests.support.running_mesh import BIN, PATIENCE_SECONDS, RunningMesh, environment, eventually, up

# What a person does in a browser: says who they are, and is led back to where the login began.
BROWSER = """
import sys
import httpx

answer = httpx.post(sys.argv[1], data={"sub": "u-1"}, follow_redirects=False)
print(httpx.get(answer.headers["location"]).text)
"""
CLAIMS = {"sub": "u-1", "preferred_username": "alice", "groups": ["/mesh/operators", "/everybody"]}


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """A provider of somebody else's making; returns its issuer."""
    port = free_port()
    words = [str(BIN / "oidc-provider-mock"), "--port", str(port), "--user-claims", json.dumps(CLAIMS)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not _listens(port):
            assert process.poll() is None and time.monotonic() < deadline, "the provider does not serve"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def people(provider: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    directory = tmp_path_factory.mktemp("people")
    file = directory / "people.json"
    settings = {
        "issuer": provider,
        "client_id": "telltale",
        "jwks": f"{provider}/jwks",
        "groups": {"/mesh/operators": "responders"},
    }
    file.write_text(json.dumps({"provider": settings}))
    with up(directory / "home", "--people", str(file)) as mesh:
        eventually(
            lambda: mesh.query("SELECT host_name FROM servers_inventory"), "a row in the database", mesh
        )
        yield mesh


def telltale(home: Path, *arguments: str, browser: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(BIN / "telltale"), "--home", str(home), *arguments],
        env={**environment(), "BROWSER": f"{sys.executable} {browser} %s"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.fixture
def browser(tmp_path: Path) -> Path:
    script = tmp_path / "browser.py"
    script.write_text(BROWSER)
    return script


def test_a_person_logs_in_from_elsewhere_with_an_address_and_the_root_and_reads(
    people: RunningMesh, tmp_path: Path, browser: Path
) -> None:
    laptop = tmp_path / "laptop"
    enrollment = json.loads((people.home / "mesh.json").read_text())["enrollment"]
    root = people.json("agent", "token", "elsewhere")["root_sha256"]
    done = telltale(laptop, "login", enrollment, "--root", root, "--json", browser=browser)
    assert done.returncode == 0, done.stderr
    # The browser shares the terminal: what it says comes first.
    issued = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert issued["spiffe_id"] == "spiffe://operators.telltale.internal/person/alice"
    assert issued["groups"] == ["responders"]
    listed = telltale(laptop, "products", "--json", browser=browser)
    assert "servers.cpu" in {row["product"] for row in json.loads(listed.stdout)}
    hosts = telltale(laptop, "inventory", "servers.inventory", "--json", browser=browser)
    assert len(json.loads(hosts.stdout)) == 1
    tail = telltale(laptop, "tail", "servers.memory", "--earliest", "--limit", "1", "--json", browser=browser)
    assert json.loads(tail.stdout)["total_bytes"]
    grpcurl = subprocess.run(
        issued["grpcurl"],
        shell=True,
        env={**environment(), "PATH": f"{BIN}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert "telltale.api.servers.v1.Cpu" in grpcurl.stdout, grpcurl.stderr
    assert telltale(laptop, "logout", browser=browser).returncode == 0
    after = telltale(laptop, "products", browser=browser)
    assert (after.returncode, after.stderr.count("\n")) == (1, 1)


def test_a_person_logs_in_on_the_mesh_s_own_machine_without_naming_anything(
    people: RunningMesh, browser: Path
) -> None:
    done = telltale(people.home, "login", "--json", browser=browser)
    assert done.returncode == 0, done.stderr
    try:
        invited = telltale(people.home, "agent", "token", "web9", "--json", browser=browser)
        assert invited.returncode == 0, invited.stderr
        logs = (people.home / "logs" / "authorities.log").read_text().splitlines()
        by = [json.loads(line).get("by") for line in logs if '"invited"' in line]
        assert by[-1] == "spiffe://operators.telltale.internal/person/alice"
        # The dashboard and whatever else the machine does for itself is not the person's.
        assert people.json("status")
    finally:
        assert telltale(people.home, "logout", browser=browser).returncode == 0
