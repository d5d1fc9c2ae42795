"""`telltale credentials` against a real authority process."""

import asyncio
import json
import os
import shlex
import stat
from pathlib import Path

import jwt
import pytest
from cryptography import x509

from telltale.cli.credentials import credentials
from telltale.cli.enrolment import certs
from telltale.cli.home import Home
from telltale.cli.processes import Plan, free_ports, plan
from telltale.cli.supervisor import supervising
from telltale.cli.up import prepare
from telltale.errors import Precondition

MESH = "telltale.test"


@pytest.fixture
def planned(tmp_path: Path) -> Plan:
    home = Home.at(tmp_path / "home")
    home.create()
    return plan(home, MESH, free_ports(1, but=0)[0])


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    # Before it stands what the identity logs, which the command itself keeps quiet.
    out = capsys.readouterr().out
    issued: dict[str, str] = json.loads(out[out.index("{\n") :])
    return issued


def read(issued: dict[str, str], kind: str) -> str:
    return Path(issued[kind]).read_text()


async def test_the_certificate_is_kept_the_token_is_fresh_and_both_are_secret(
    planned: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    home = planned.home
    await prepare(planned)
    with home.locked():
        home.write_mesh(planned.running())
        async with supervising(planned.programs()[:1]), asyncio.timeout(30):
            await credentials(home, "operator", as_json=True)
            first = printed(capsys)
            token, certificate = read(first, "token"), read(first, "certificate")
            await credentials(home, "operator", as_json=True)
            second = printed(capsys)
    assert first["spiffe_id"] == f"spiffe://operators.{MESH}/operator"
    assert read(second, "certificate") == certificate
    assert read(second, "token") != token
    for kind in ("certificate", "key", "ca", "token"):
        assert stat.S_IMODE(os.stat(first[kind]).st_mode) == 0o600
    names = x509.load_pem_x509_certificate(certificate.encode()).extensions
    alternative = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternative.get_values_for_type(x509.UniformResourceIdentifier) == [first["spiffe_id"]]
    assert token not in first["grpcurl"]
    assert shlex.split(first["grpcurl"])[-2:] == [
        f"localhost:{planned.running().gateway.split(':')[1]}",
        "list",
    ]


async def test_groups_are_those_of_the_last_call_and_responders_without_any(
    planned: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    home = planned.home
    await prepare(planned)
    seen = []
    with home.locked():
        home.write_mesh(planned.running())
        async with supervising(planned.programs()[:1]), asyncio.timeout(30):
            for groups in (None, ["network", "auditors"], ["auditors", "network"], None):
                chosen = {} if groups is None else {"groups": groups}
                await credentials(home, "operator", **chosen, as_json=True)  # type: ignore[arg-type]
                issued = printed(capsys)
                claims = jwt.decode(read(issued, "token"), options={"verify_signature": False})
                assert claims["groups"] == issued["groups"]
                seen.append((claims["groups"], read(issued, "certificate")))
    assert [groups for groups, _ in seen] == [
        ["responders"],
        ["auditors", "network"],
        ["auditors", "network"],
        ["responders"],
    ]
    # The same groups keep their certificate, others need another one.
    assert [seen[0][1] != seen[1][1], seen[1][1] == seen[2][1], seen[2][1] != seen[3][1]] == [True] * 3


async def test_processes_get_a_join_token_each_that_only_they_can_read(planned: Plan) -> None:
    await prepare(planned)
    for process in planned.processes:
        token = planned.home.state(process.name) / "join-token"
        if process.joins:
            # It is invited over the wire, once its authority answers.
            assert not token.exists()
            continue
        assert token.read_text().endswith(str(process.spiffe_id(MESH)).removeprefix("spiffe://"))
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700


async def test_the_authoritys_refusal_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(Precondition, match="make one with") as refused:
        await certs("join-token", "--home", str(tmp_path), "--domain", "operators", "--path", "/x")
    assert "\n" not in str(refused.value)
