"""A domain's authority, taken over with both of its keys: it makes identities of its own domain alone."""

import pytest

from telltale.naming import server_name
from tests.support.attacker import MESH, Attacker, answer

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]


async def test_an_authority_issues_for_its_own_domain_only(attacker: Attacker) -> None:
    agent = attacker.steal("agent")
    address = attacker.authority("operators")._authority
    async with agent.channel(address, server_name("authority", f"operators.{MESH}")) as channel:
        for method in ("IssueToken", "Renew"):
            code, detail = await answer(channel, f"/telltale.api.mesh.v1.Authority/{method}", b"")
            assert (code, "has to ask its own" in detail) == ("UNAUTHENTICATED", True)
    assert (await attacker.authority("servers").renew(agent.credentials)).spiffe_id == agent.spiffe_id
