"""A domain's authority, taken over with both of its keys: it makes identities of its own domain alone."""

import time
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest

from certs.home import Home
from certs.issuing import IssuingAuthority
from telltale.errors import Unauthenticated, Unavailable
from telltale.identity.credentials import Credentials
from telltale.identity.dialling import dial
from telltale.identity.tokens import confirmation
from telltale.identity.workload import Workload
from telltale.naming import server_name
from telltale.rpc.auth import Authenticator
from telltale.rpc.server import serving
from telltale.seal.verify import Verifier
from tests.support.attacker import GATEWAY, MESH, MESH_API, SERVERS, SERVERS_API, Attacker, answer, bearer
from tests.support.batches import Chain, disk_usage
from tests.support.forgery import forged
from tests.support.mesh import Mesh

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]

CATALOG = f"{MESH_API}Catalog/ListProducts"
OTHERS = (
    f"spiffe://platform.{MESH}/gateway",
    f"spiffe://platform.{MESH}/writer",
    f"spiffe://operators.{MESH}/eve",
    f"spiffe://analysis.{MESH}/service",
    # A part of its own name, and its own with something before or behind.
    f"spiffe://{MESH}/gateway",
    f"spiffe://x.{SERVERS}/agent/web1",
    f"spiffe://{SERVERS}.example/agent/web1",
)


@pytest.fixture
def stolen(attacker: Attacker) -> Mesh:
    """The keys of the servers' authority, in the hands of somebody who has read the honest code."""
    authority = IssuingAuthority.load(attacker.mesh.home / "authorities" / "servers")
    return Mesh(Home(attacker.mesh.home), MESH, {"servers": authority})


def minted(stolen: Mesh, who: Credentials, **changes: Any) -> str:
    """A token by the stolen key with any claims."""
    authority = stolen.authorities["servers"]
    now = int(time.time())
    claims = {
        "iss": SERVERS,
        "sub": str(who.spiffe_id),
        "aud": [SERVERS, f"platform.{MESH}"],
        "iat": now,
        "exp": now + 600,
        "jti": "1",
        "cnf": {"x5t#S256": confirmation(who.thumbprint)},
        **changes,
    }
    headers = {"kid": authority._token_key_id}
    return jwt.encode(claims, authority._token_key, algorithm="ES256", headers=headers)


async def test_an_authority_issues_for_its_own_domain_only(attacker: Attacker) -> None:
    agent = attacker.steal("agent")
    async with attacker.authority_channel(agent, "operators") as channel:
        for method in ("IssueToken", "Renew"):
            code, detail = await answer(channel, f"{MESH_API}Authority/{method}", b"")
            assert (code, "has to ask its own" in detail) == ("UNAUTHENTICATED", True)
    assert (await attacker.authority("servers").renew(agent.credentials)).spiffe_id == agent.spiffe_id


@pytest.mark.parametrize("name", OTHERS)
async def test_a_certificate_that_it_mints_for_another_domain_opens_no_door(
    attacker: Attacker, stolen: Mesh, name: str
) -> None:
    forgery = forged(stolen, "servers", name)
    for address, server in (
        (attacker.mesh.gateway, server_name(GATEWAY, f"platform.{MESH}")),
        (attacker.service("servers"), server_name("service", SERVERS)),
        (attacker.authority("operators")._authority, server_name("authority", f"operators.{MESH}")),
    ):
        async with dial(address, server, attacker.trust.root_pem, forgery) as channel:
            # The handshake ends it: the name constraints of its issuer do not let it be.
            assert (await answer(channel, CATALOG, b""))[0] == "UNAVAILABLE", server


async def test_a_server_that_it_mints_for_another_domain_is_dialled_by_nobody(
    attacker: Attacker, stolen: Mesh, eve: Workload
) -> None:
    gateway = server_name(GATEWAY, f"platform.{MESH}")
    forgery = forged(stolen, "servers", f"spiffe://{SERVERS}/service", gateway)
    impostor = Workload(forgery, attacker.trust, attacker.authority("servers"))
    authenticator = Authenticator(attacker.trust, f"platform.{MESH}")
    async with serving(impostor, "127.0.0.1:0", authenticator, lambda server: None, grace=0.2) as port:
        async with eve.channel(f"127.0.0.1:{port}", gateway) as channel:
            assert (await answer(channel, CATALOG, b""))[0] == "UNAVAILABLE"


async def test_a_batch_that_it_signs_for_another_domain_does_not_hold(
    attacker: Attacker, stolen: Mesh
) -> None:
    source = f"spiffe://analysis.{MESH}/service"
    forgery = forged(stolen, "servers", source)
    verifier = Verifier(attacker.trust)
    verifier.learn(forgery.certificates)
    batch = Chain(forgery).next([disk_usage("/forged")])
    with pytest.raises(Exception, match="does not hold"):
        verifier.verify(batch, datetime.now(UTC))


async def test_a_token_that_it_mints_for_another_domain_is_refused(attacker: Attacker, stolen: Mesh) -> None:
    # An identity that is honestly of its own domain, and as much of a token as its keys can make.
    agent = stolen.credentials("servers", "/agent/minted")
    for changes, advice in (
        ({"sub": f"spiffe://operators.{MESH}/eve"}, "may not issue tokens for"),
        ({"iss": f"operators.{MESH}", "sub": f"spiffe://operators.{MESH}/eve"}, "key is not one of"),
        ({"sub": f"spiffe://{SERVERS}/service"}, "use your own"),
        ({"exp": int(time.time()) + 24 * 3600}, "longer than 15 minutes"),
        ({"cnf": {}}, "lacks"),
    ):
        metadata = (("authorization", f"Bearer {minted(stolen, agent, **changes)}"),)
        name = server_name(GATEWAY, f"platform.{MESH}")
        async with dial(attacker.mesh.gateway, name, attacker.trust.root_pem, agent) as channel:
            code, detail = await answer(channel, CATALOG, b"", metadata)
            assert (code, advice in detail) == ("UNAUTHENTICATED", True), detail


async def test_whatever_identity_it_makes_reads_what_its_domain_may_and_no_more(
    attacker: Attacker, stolen: Mesh
) -> None:
    for path in ("/agent/minted", "/gateway", "/writer", "/eve", "/authority"):
        who = stolen.credentials("servers", path)
        metadata = (("authorization", f"Bearer {minted(stolen, who)}"),)
        name = server_name("service", SERVERS)
        async with dial(attacker.service("servers"), name, attacker.trust.root_pem, who) as channel:
            code, detail = await answer(channel, f"{SERVERS_API}Inventory/List", b"", metadata)
            assert (code, "`list`" in detail) == ("PERMISSION_DENIED", True), (path, detail)


async def test_the_authority_of_operators_cannot_be_spoken_for(attacker: Attacker, stolen: Mesh) -> None:
    agent = stolen.workload("servers", "/agent/minted")
    with pytest.raises((Unauthenticated, Unavailable)):
        await attacker.authority("operators").renew(agent.credentials)
    async with attacker.authority_channel(agent, "operators") as channel:
        metadata = await bearer(agent, "operators")
        code, _ = await answer(channel, f"{MESH_API}Authority/CreateJoinToken", b"", metadata)
        assert code in ("UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT")
