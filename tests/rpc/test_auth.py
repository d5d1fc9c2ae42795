"""Every forgery on the real wire: what a stranger, a thief and a rogue authority get to hear."""

import base64
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from telltale.errors import Unauthenticated
from telltale.identity.credentials import Credentials
from telltale.identity.tokens import confirmation
from telltale.identity.workload import Workload
from telltale.rpc.server import serving
from tests.support.auditing import Recorded
from tests.support.echo import Echo, echo_server
from tests.support.forgery import forged
from tests.support.mesh import Mesh, MeshIssuer


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh.create(tmp_path, "servers", "platform")


@pytest.fixture
async def echo(mesh: Mesh) -> AsyncIterator[Echo]:
    async with echo_server(mesh, frozenset({mesh.spiffe_id("platform", "/gateway")})) as server:
        yield server


async def bearer(who: Workload, *audiences: str) -> str:
    return f"Bearer {await who.token(*audiences)}"


def signed(mesh: Mesh, domain: str, who: Credentials, **changes: Any) -> str:
    """A token by the domain's real key with any claims; a span is a time from now."""
    now = int(time.time())
    changes = {
        key: now + int(value.total_seconds()) if isinstance(value, timedelta) else value
        for key, value in changes.items()
    }
    claims: dict[str, Any] = {
        "iss": who.spiffe_id.trust_domain,
        "sub": str(who.spiffe_id),
        "aud": [mesh.trust_domain("servers")],
        "iat": now,
        "exp": now + 600,
        "jti": "1",
        "cnf": {"x5t#S256": confirmation(who.thumbprint)},
    }
    claims = {key: value for key, value in (claims | changes).items() if value is not None}
    authority = mesh.authorities[domain]
    return jwt.encode(
        claims, authority._token_key, algorithm="ES256", headers={"kid": authority._token_key_id}
    )


async def refusal(echo: Echo, who: Workload | Credentials, **metadata: str) -> str:
    """What the caller is told; the status has to be UNAUTHENTICATED."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await echo.call(who, **metadata)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED, refused.value.details()
    return refused.value.details() or ""


async def test_a_caller_with_certificate_and_token_is_known(mesh: Mesh, echo: Echo) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    name = "spiffe://servers.telltale.test/agent/web1"
    assert await echo.call(agent, authorization=await bearer(agent, echo.audience)) == f"{name} by {name}"


async def test_a_foreign_mesh_does_not_pass_the_handshake(tmp_path: Path, echo: Echo) -> None:
    stranger = Mesh.create(tmp_path / "other", "servers").credentials("servers", "/agent/web1")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await echo.call(stranger)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_caller_without_certificate_does_not_pass_the_handshake(mesh: Mesh, echo: Echo) -> None:
    tls = grpc.ssl_channel_credentials(mesh.trust.root_pem)
    options = [("grpc.ssl_target_name_override", echo.server_name)]
    async with grpc.aio.secure_channel(echo.address, tls, options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/echo/Who")(b"", timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_servers_authority_cannot_forge_a_platform_identity(mesh: Mesh, echo: Echo) -> None:
    forgery = forged(mesh, "servers", "spiffe://platform.telltale.test/gateway")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await echo.call(forgery, authorization=f"Bearer {signed(mesh, 'servers', forgery)}")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("name", ["gateway.platform.telltale.test", "localhost"])
async def test_the_servers_authority_cannot_forge_the_gateways_name(mesh: Mesh, name: str) -> None:
    forgery = forged(mesh, "servers", "spiffe://servers.telltale.test/service", name)
    server = Workload(forgery, mesh.trust, MeshIssuer(mesh))
    agent = mesh.workload("servers", "/agent/web1")
    async with serving(server, "127.0.0.1:0", None, lambda server: None) as port:
        async with agent.channel(f"127.0.0.1:{port}", name) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "CERTIFICATE_VERIFY_FAILED" in (refused.value.details() or "")


async def test_a_service_under_another_name_is_not_taken_for_the_one_meant(mesh: Mesh, echo: Echo) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    async with agent.channel(echo.address, mesh.server_name("authority", "servers")) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/echo/Who")(b"", timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("web1.servers.telltale.test",),
        ("spiffe://servers.telltale.test/agent/web1", "spiffe://servers.telltale.test/agent/web2"),
    ],
)
async def test_a_peer_without_exactly_one_uri_is_refused(
    mesh: Mesh, echo: Echo, names: tuple[str, ...]
) -> None:
    honest = mesh.workload("servers", "/agent/web1")
    said = await refusal(
        echo, forged(mesh, "servers", *names), authorization=await bearer(honest, echo.audience)
    )
    assert "exactly one SPIFFE ID" in said


async def test_an_expired_certificate_is_named_before_anything_is_dialled(mesh: Mesh, echo: Echo) -> None:
    hour = timedelta(hours=1)
    old = forged(mesh, "servers", "spiffe://servers.telltale.test/agent/web1", start=-2 * hour, end=-hour)
    with pytest.raises(Unauthenticated, match=r"agent/web1 expired at 20.*enrol again with a new join token"):
        await echo.call(old)


async def test_a_call_without_token_is_told_what_to_add(mesh: Mesh, echo: Echo) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    assert "authorization: Bearer" in await refusal(echo, agent)
    assert "authorization: Bearer" in await refusal(echo, agent, authorization="Basic YTpi")


async def test_a_stolen_token_is_worth_nothing_with_another_certificate(mesh: Mesh, echo: Echo) -> None:
    victim, thief = (mesh.workload("servers", f"/agent/{name}") for name in ("web1", "web2"))
    token = await bearer(victim, echo.audience)
    assert await echo.call(victim, authorization=token)
    assert "bound to another certificate" in await refusal(echo, thief, authorization=token)


async def test_another_certificate_of_the_same_name_does_not_fit_either(mesh: Mesh, echo: Echo) -> None:
    first, second = (mesh.workload("servers", "/agent/web1") for _ in range(2))
    token = await bearer(first, echo.audience)
    assert "bound to another certificate" in await refusal(echo, second, authorization=token)


async def test_a_token_for_another_name_is_refused_even_when_bound(mesh: Mesh, echo: Echo) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    token = signed(mesh, "servers", agent.credentials, sub="spiffe://servers.telltale.test/agent/web2")
    assert "use your own" in await refusal(echo, agent, authorization=f"Bearer {token}")


async def test_an_authority_cannot_speak_for_another_domain(mesh: Mesh, echo: Echo) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    foreign = signed(mesh, "platform", agent.credentials, iss="platform.telltale.test")
    assert "may not issue tokens for" in await refusal(echo, agent, authorization=f"Bearer {foreign}")
    posing = signed(mesh, "platform", agent.credentials)
    assert "is not one of servers.telltale.test" in await refusal(
        echo, agent, authorization=f"Bearer {posing}"
    )
    unknown = signed(mesh, "servers", agent.credentials, iss="evil.example")
    assert "not in this process's trust bundle" in await refusal(
        echo, agent, authorization=f"Bearer {unknown}"
    )


async def test_a_token_for_another_audience_is_refused(mesh: Mesh, echo: Echo) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    token = await bearer(agent, mesh.trust_domain("platform"))
    assert "not meant for servers.telltale.test" in await refusal(echo, agent, authorization=token)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"exp": timedelta(seconds=-1)}, "expired"),
        ({"exp": timedelta(hours=1)}, "longer than 15 minutes"),
        ({"iat": timedelta(minutes=10), "exp": timedelta(minutes=15)}, "of the future"),
        ({"cnf": None}, "lacks"),
        ({"cnf": {"x5t#S256": 7}}, "bound to another certificate"),
        ({"cnf": {"x5t#S256": "\ud800"}}, "bound to another certificate"),
        ({"iat": float("nan")}, "lacks"),
        ({"iat": 10**30, "exp": 10**30 + 1}, "lacks"),
        ({"sub": None}, "does not hold"),
        ({"sub": "web1"}, "lacks"),
        ({"jti": None}, "does not hold"),
        ({"exp": None}, "does not hold"),
        ({"groups": "root"}, "no list of at most 32 group names"),
        ({"groups": ["Root!"]}, "no list of at most 32 group names"),
        ({"groups": [7]}, "no list of at most 32 group names"),
        ({"groups": [f"g{number}" for number in range(33)]}, "no list of at most 32 group names"),
    ],
)
async def test_a_token_with_wrong_claims_is_refused(
    mesh: Mesh, echo: Echo, changes: dict[str, Any], said: str
) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    token = signed(mesh, "servers", agent.credentials, **changes)
    assert said in await refusal(echo, agent, authorization=f"Bearer {token}")


async def test_the_token_does_not_choose_its_algorithm(mesh: Mesh, echo: Echo) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    header, claims, _ = signed(mesh, "servers", agent.credentials).split(".")

    def encoded(value: dict[str, str]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    key_id = mesh.authorities["servers"]._token_key_id
    unsigned = f"{encoded({'alg': 'none', 'kid': key_id})}.{claims}."
    assert "does not hold" in await refusal(echo, agent, authorization=f"Bearer {unsigned}")

    public = mesh.authorities["servers"]._token_key.public_key()
    secret = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    start = f"{encoded({'alg': 'HS256', 'kid': key_id})}.{claims}"
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(start.encode(), secret)
    confused = f"{start}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    assert "does not hold" in await refusal(echo, agent, authorization=f"Bearer {confused}")
    assert "does not hold" in await refusal(echo, agent, authorization=f"Bearer {header}.{claims}.AAAA")
    assert "does not hold" in await refusal(echo, agent, authorization="Bearer rubbish")


async def test_a_forwarder_speaks_for_its_caller(mesh: Mesh, echo: Echo) -> None:
    gateway, agent = mesh.workload("platform", "/gateway"), mesh.workload("servers", "/agent/web1")
    metadata = {
        "authorization": await bearer(gateway, echo.audience),
        "telltale_on_behalf_of": await agent.token(echo.audience, "platform.telltale.test"),
    }
    said = await echo.call(gateway, **metadata)
    assert said == "spiffe://servers.telltale.test/agent/web1 by spiffe://platform.telltale.test/gateway"


async def test_a_callers_groups_are_those_of_its_own_token_also_behind_a_forwarder(
    mesh: Mesh, echo: Echo
) -> None:
    gateway = mesh.workload("platform", "/gateway", groups=["fans"])
    agent = mesh.workload("servers", "/agent/web1", groups=["on-call", "dev"])
    said = await echo.call(agent, authorization=await bearer(agent, echo.audience))
    assert said.endswith(" in dev, on-call")
    own = await bearer(gateway, echo.audience)
    forwarded = await agent.token(echo.audience)
    said = await echo.call(gateway, authorization=own, telltale_on_behalf_of=forwarded)
    assert said.endswith("by spiffe://platform.telltale.test/gateway in dev, on-call")


async def test_nobody_but_a_forwarder_speaks_for_others(mesh: Mesh, echo: Echo) -> None:
    rogue, agent = mesh.workload("platform", "/writer"), mesh.workload("servers", "/agent/web1")
    metadata = {
        "authorization": await bearer(rogue, echo.audience),
        "telltale_on_behalf_of": await agent.token(echo.audience),
    }
    assert "may not speak for others" in await refusal(echo, rogue, **metadata)


async def test_a_forwarder_cannot_invent_or_redirect_a_caller(mesh: Mesh, echo: Echo) -> None:
    gateway, agent = mesh.workload("platform", "/gateway"), mesh.workload("servers", "/agent/web1")
    own = await bearer(gateway, echo.audience)
    invented = signed(mesh, "platform", agent.credentials, iss="platform.telltale.test")
    assert "may not issue tokens" in await refusal(
        echo, gateway, authorization=own, telltale_on_behalf_of=invented
    )
    elsewhere = await agent.token("platform.telltale.test")
    assert "not meant for" in await refusal(echo, gateway, authorization=own, telltale_on_behalf_of=elsewhere)


async def test_metadata_that_two_readers_could_read_differently_is_refused(mesh: Mesh, echo: Echo) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    token = await bearer(agent, echo.audience)
    async with echo.channel(agent) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="appears 2 times"):
            twice = (("authorization", token), ("authorization", "Bearer other"))
            await channel.unary_unary("/echo/Who")(b"", metadata=twice, timeout=10)


async def test_everybody_who_is_not_known_is_recorded_with_what_is_proven_and_claimed(mesh: Mesh) -> None:
    agent = mesh.workload("servers", "/agent/web1")
    other = mesh.workload("servers", "/agent/web2")
    two = forged(
        mesh, "servers", "spiffe://servers.telltale.test/agent/a", "spiffe://servers.telltale.test/agent/b"
    )
    recorded = Recorded()
    async with echo_server(mesh, auditor=recorded) as echo:
        stolen = await bearer(other, echo.audience)
        foreign = await bearer(agent, mesh.trust_domain("platform"))
        await refusal(echo, agent)
        await refusal(echo, agent, authorization=stolen)
        await refusal(echo, agent, authorization=foreign)
        await refusal(echo, two)
        assert await echo.call(agent, authorization=await bearer(agent, echo.audience))
    none, thief, misled, double = recorded.decisions
    assert {(one.action, one.allowed) for one in recorded.decisions} == {("authenticate", False)}
    assert {one.principal for one in (none, thief, misled)} == {str(agent.spiffe_id)}
    assert {one.peer for one in (none, thief, misled)} == {str(agent.spiffe_id)}
    assert "sent no token" in none.reason and none.reason.endswith("(/echo/Who)")
    assert "bound to another certificate" in thief.reason
    assert "not meant for servers.telltale.test" in misled.reason
    assert double.peer == "" and "/agent/a" in double.principal and "/agent/b" in double.principal
    assert {one.address for one in recorded.decisions} == {"127.0.0.1"}
    for token in (stolen, foreign):
        assert not [part for part in token.removeprefix("Bearer ").split(".") if part in str(recorded)]


async def test_what_a_caller_invents_makes_one_kind_of_refusal_and_what_is_found_out_its_own(
    mesh: Mesh,
) -> None:
    agent, other = mesh.workload("servers", "/agent/web1"), mesh.workload("servers", "/agent/web2")
    recorded = Recorded()
    async with echo_server(mesh, auditor=recorded) as echo:
        for number in range(3):
            invented = signed(mesh, "servers", agent.credentials, iss=f"invented{number}.telltale.test")
            await refusal(echo, agent, authorization=f"Bearer {invented}")
        await refusal(echo, agent, authorization=await bearer(other, echo.audience))
    *invented_ones, thief = recorded.decisions
    assert {one.kind for one in invented_ones} == {"Unproven (/echo/Who)"}
    assert len({one.reason for one in invented_ones}) == 3
    assert "bound to another certificate" in thief.reason and thief.kind == ""


async def test_a_stream_that_ends_with_its_token_is_no_refusal(tmp_path: Path) -> None:
    mesh = Mesh.create(tmp_path, "servers", token_life=timedelta(seconds=2))
    agent, recorded = mesh.workload("servers", "/agent/web1"), Recorded()
    async with echo_server(mesh, auditor=recorded) as echo, echo.channel(agent) as channel:
        call = channel.unary_stream("/echo/Waits")(
            b"", metadata=(("authorization", await bearer(agent, echo.audience)),), timeout=30
        )
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            async for _ in call:
                pass
    assert "token expired" in (ended.value.details() or "")
    assert recorded.decisions == []
