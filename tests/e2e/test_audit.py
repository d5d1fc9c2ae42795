"""The audit log of a whole mesh: every process's decisions in SQL and on the stream, and no secret."""

import json
from typing import Any

import grpc.aio
import pytest

from telltale.identity.enrolment import JoinToken
from telltale.identity.keys import new_key
from tests.support.attacker import GATEWAY, Attacker, answer, bearer, opened
from tests.support.running_mesh import RunningMesh, eventually

# The mesh of all tests that only look at it.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]

OPERATOR = "spiffe://operators.telltale.internal/command-line"


def audited(mesh: RunningMesh, where: str) -> list[dict[str, Any]]:
    """Rows of the audit log, in their order, as soon as there is one."""
    rows = eventually(
        lambda: mesh.query(f"SELECT * FROM mesh_audit WHERE {where} ORDER BY time"), f"a row {where}", mesh
    )
    assert isinstance(rows, list)
    return rows


def test_every_process_that_decides_tells_of_it_in_its_own_name(mesh: RunningMesh) -> None:
    wanted = {
        ("platform service", "spiffe://platform.telltale.internal/service"),
        ("servers service", "spiffe://servers.telltale.internal/service"),
        ("network service", "spiffe://network.telltale.internal/service"),
        ("analysis service", "spiffe://analysis.telltale.internal/service"),
        ("gateway", "spiffe://platform.telltale.internal/gateway"),
        *(
            ("authority", f"spiffe://{domain}.telltale.internal/authority")
            for domain in ("platform", "servers", "network", "analysis", "operators")
        ),
    }

    def reporters() -> set[tuple[str, str]]:
        rows = mesh.query("SELECT DISTINCT reporter, _source FROM mesh_audit WHERE _verified = 'VERIFIED'")
        return {(row["reporter"], row["_source"]) for row in rows}

    eventually(lambda: reporters() >= wanted, f"records of {wanted}", mesh)


def test_a_permission_names_who_what_and_by_which_rule(mesh: RunningMesh) -> None:
    pushed = audited(mesh, "action = 'push' AND product = 'servers.memory'")[0]
    assert pushed["principal"].startswith("spiffe://servers.telltale.internal/agent/")
    assert pushed["peer"] == pushed["principal"] and pushed["address"] == "127.0.0.1"
    assert pushed["allowed"] in (True, 1) and json.loads(pushed["rules"]) == ["agents-publish"]
    assert pushed["reporter"] == "servers service" and pushed["count"] >= 1


async def test_what_is_denied_through_the_gateway_is_told_by_the_owner_and_is_on_the_stream(
    mesh: RunningMesh,
) -> None:
    attacker = Attacker(mesh)
    mallory = await attacker.enrol("servers", "/agent/mallory")
    async with attacker.channel(mallory, GATEWAY) as channel:
        metadata = await bearer(mallory, "platform", "servers")
        code, _ = await answer(channel, "/telltale.api.servers.v1.Logins/Subscribe", b"", metadata)
        assert code == "PERMISSION_DENIED"
    where = f"action = 'subscribe' AND product = 'servers.logins' AND principal = '{mallory.spiffe_id}'"
    gateway = "spiffe://platform.telltale.internal/gateway"
    denied = audited(mesh, f"{where} AND peer = '{gateway}'")[0]
    assert not denied["allowed"] and denied["reporter"] == "servers service"
    assert denied["reason"].startswith("no policy permits `subscribe` on servers.logins")
    # The gateway itself saw where the call came from.
    admitted = audited(mesh, f"action = 'admit' AND principal = '{mallory.spiffe_id}'")[0]
    assert (admitted["reporter"], admitted["address"]) == ("gateway", "127.0.0.1")
    tail = mesh.telltale("tail", "mesh.audit", "--earliest", "--limit", "1", "--json")
    assert '"action"' in tail


async def test_uses_and_reuse_of_a_join_token_are_in_sql_and_the_token_is_nowhere(mesh: RunningMesh) -> None:
    attacker = Attacker(mesh)
    invitation = mesh.json("agent", "token", "audited1")
    token, authority = JoinToken.parse(invitation["token"]), attacker.authority("servers")
    key, subject = new_key(), invitation["spiffe_id"]
    await authority.enroll(token, key)
    await authority.enroll(token, key)
    with pytest.raises(Exception, match="used with another key"):
        await authority.enroll(token, new_key())

    def steps() -> list[tuple[Any, ...]]:
        rows = mesh.query(
            "SELECT action, allowed::BOOLEAN AS allowed, principal, reason FROM mesh_audit"
            f" WHERE subject = '{subject}' AND address = '127.0.0.1'"
            " AND _source = 'spiffe://servers.telltale.internal/authority' ORDER BY time"
        )
        return [
            (row["action"], row["allowed"], row["principal"], row["reason"].partition(";")[0]) for row in rows
        ]

    eventually(lambda: len(steps()) == 4, f"four steps of {subject}: {steps()}", mesh)
    assert steps() == [
        ("invite", True, OPERATOR, "permitted by operators-invite-agents"),
        ("enroll", True, subject, "its join token was used for the first time"),
        ("enroll", True, subject, "its join token was used again with the same key"),
        ("enroll", False, subject, "this join token was used with another key"),
    ]
    for file in mesh.home.rglob("*"):
        if file.is_file() and file.suffix in (".db", ".db-wal", ".log", ".duckdb"):
            assert token.secret.encode() not in file.read_bytes(), file


async def test_no_bearer_token_gets_into_the_audit_log(mesh: RunningMesh) -> None:
    attacker = Attacker(mesh)
    mallory = await attacker.enrol("servers", "/agent/mallory")
    eve = await attacker.enrol("operators", "/eve")
    stolen = await bearer(eve, "servers", "platform")
    async with attacker.channel(mallory, "servers") as channel:
        code, _ = await answer(channel, "/telltale.api.servers.v1.Logins/Subscribe", b"", stolen)
        assert code == "UNAUTHENTICATED"
    bound = "reason LIKE '%bound to another certificate%Logins/Subscribe)'"
    thief = audited(mesh, f"action = 'authenticate' AND {bound}")[0]
    assert (thief["principal"], thief["reporter"]) == (str(mallory.spiffe_id), "servers service")
    everything = json.dumps(mesh.query("SELECT * FROM mesh_audit"))
    for part in stolen[0][1].removeprefix("Bearer ").split("."):
        assert part not in everything


def test_the_audit_of_the_audit_comes_to_an_end(mesh: RunningMesh) -> None:
    """Each process pushes its audit, which is another decision: once a minute, however long it goes on."""
    audited(mesh, "action = 'push' AND product = 'mesh.audit'")
    beyond = mesh.query(
        "SELECT principal, count(*) AS records, epoch(max(last_time)) - epoch(min(time)) AS seconds"
        " FROM mesh_audit WHERE action = 'push' AND product = 'mesh.audit' GROUP BY principal"
        # One a minute that it was seen in, and one more where it was new.
        " HAVING records > seconds / 60 + 3"
    )
    assert beyond == []


async def test_an_agent_reads_no_audit_log(mesh: RunningMesh) -> None:
    attacker = Attacker(mesh)
    mallory = await attacker.enrol("servers", "/agent/mallory")
    async with attacker.channel(mallory, GATEWAY) as channel:
        metadata = await bearer(mallory, "platform")
        call = opened(channel, "/telltale.api.platform.v1.Audit/Subscribe", b"", metadata, timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await anext(aiter(call))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
