"""Enrolment, renewal and tokens on the real wire of a real authority."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from certs.__main__ import main
from certs.ledger import Ledger
from certs.profiles import Profile
from certs.serve import AuthorityAddress, AuthoritySettings, serving_authority
from telltale.api.mesh.v1 import authority_pb2, authority_pb2_grpc
from telltale.audit import place_of
from telltale.identity.credentials import Credentials
from telltale.identity.dialling import LARGEST_MESSAGE, dial
from telltale.identity.enrolment import JoinToken
from telltale.identity.keys import new_key, signing_request
from telltale.rpc.health import check
from tests.support.auditing import Recorded
from tests.support.mesh import Mesh
from tests.support.stalling import stalling


@dataclass
class Running:
    """An authority that serves."""

    mesh: Mesh
    settings: AuthoritySettings
    port: int
    enrollment: int
    recorded: Recorded

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.mesh.home.authority("servers"))

    def join_token(
        self, path: str = "/agent/web1", *dns: str, life: timedelta = timedelta(minutes=10)
    ) -> str:
        profile = Profile(self.mesh.spiffe_id("servers", path), dns)
        return str(self.ledger.grant(profile, life).token)

    async def enroll(self, token: str, request: bytes) -> tuple[bytes, ...]:
        name = self.mesh.server_name("authority", "servers")
        async with dial(f"127.0.0.1:{self.enrollment}", name, self.mesh.trust.root_pem) as channel:
            stub = authority_pb2_grpc.AuthorityStub(channel)
            answer = await stub.Enroll(
                authority_pb2.EnrollRequest(join_token=token, signing_request=request), timeout=10
            )
        return tuple(answer.certificates)

    def channel(self, credentials: Credentials) -> grpc.aio.Channel:
        name = self.mesh.server_name("authority", "servers")
        return dial(f"127.0.0.1:{self.port}", name, self.mesh.trust.root_pem, credentials)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    mesh = Mesh.create(tmp_path, "servers", "platform")
    address = AuthorityAddress(
        directory=mesh.home.authority("servers"), listen="127.0.0.1:0", enrollment="127.0.0.1:0"
    )
    settings = AuthoritySettings(authorities=(address,))
    recorded = Recorded()
    async with serving_authority(address, settings, auditor=recorded) as (port, enrollment):
        yield Running(mesh, settings, port, enrollment, recorded)


async def refused(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call  # type: ignore[misc]
    return failed.value


async def test_a_join_token_buys_the_identity_that_it_names_and_no_other(running: Running) -> None:
    key = new_key()
    asked = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier("spiffe://servers.telltale.test/service")]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    chain = await running.enroll(running.join_token(), asked.public_bytes(Encoding.DER))
    credentials = Credentials(key, chain)
    assert str(credentials.spiffe_id) == "spiffe://servers.telltale.test/agent/web1"
    purposes = credentials.leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert credentials.not_after - credentials.not_before <= timedelta(hours=24, minutes=1)


async def test_a_servers_leaf_carries_its_names(running: Running) -> None:
    key = new_key()
    token = running.join_token("/service", "service.servers.telltale.test")
    leaf = Credentials(key, await running.enroll(token, signing_request(key))).leaf
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["service.servers.telltale.test"]
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(purposes) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


async def test_the_same_key_gets_its_certificate_again_and_another_key_does_not(running: Running) -> None:
    token, key = running.join_token(), new_key()
    first = await running.enroll(token, signing_request(key))
    assert await running.enroll(token, signing_request(key)) == first
    failed = await refused(running.enroll(token, signing_request(new_key())))
    assert failed.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "used with another key" in (failed.details() or "")


async def test_of_two_keys_at_once_exactly_one_wins(running: Running) -> None:
    token = running.join_token()
    answers = await asyncio.gather(
        *(running.enroll(token, signing_request(new_key())) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(answer, tuple) for answer in answers) == 1


@pytest.mark.parametrize("token", ["", "rubbish", "join-x@servers.telltale.test/agent/web1", "x" * 50_000])
async def test_an_unknown_join_token_is_refused(running: Running, token: str) -> None:
    failed = await refused(running.enroll(token, signing_request(new_key())))
    assert failed.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "ask for" in (failed.details() or "")


async def test_an_expired_join_token_is_refused(running: Running) -> None:
    failed = await refused(
        running.enroll(running.join_token(life=timedelta(seconds=-1)), signing_request(new_key()))
    )
    assert failed.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "has expired" in (failed.details() or "")


def other_requests() -> dict[str, bytes]:
    """Signing requests that are none of ours."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    good = signing_request(new_key())
    return {
        "rsa": builder.sign(rsa_key, hashes.SHA256()).public_bytes(Encoding.DER),
        "p384": builder.sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()).public_bytes(
            Encoding.DER
        ),
        "broken signature": good[:-1] + bytes([good[-1] ^ 1]),
        "truncated": good[:40],
        "empty": b"",
        "oversize": good + bytes(50_000),
    }


async def test_only_small_p256_requests_signed_by_their_key_are_taken(running: Running) -> None:
    token = running.join_token()
    for name, request in other_requests().items():
        failed = await refused(running.enroll(token, request))
        assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT, name
    assert await running.enroll(token, signing_request(new_key())), "the refusals used the token up"


async def test_too_many_attempts_are_turned_away(running: Running) -> None:
    request = signing_request(new_key())
    answers = [await refused(running.enroll("join-guess", request)) for _ in range(35)]
    assert answers[0].code() is grpc.StatusCode.UNAUTHENTICATED
    assert answers[-1].code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_the_enrolment_port_does_nothing_but_enrol(running: Running) -> None:
    name = running.mesh.server_name("authority", "servers")
    async with dial(f"127.0.0.1:{running.enrollment}", name, running.mesh.trust.root_pem) as channel:
        stub = authority_pb2_grpc.AuthorityStub(channel)
        for call in (
            stub.Renew(authority_pb2.RenewRequest(signing_request=signing_request(new_key()))),
            stub.IssueToken(authority_pb2.IssueTokenRequest(audiences=["servers.telltale.test"])),
        ):
            assert (await refused(call)).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_answers_on_both_ports(running: Running) -> None:
    name, root_pem = running.mesh.server_name("authority", "servers"), running.mesh.trust.root_pem
    me = running.mesh.credentials("servers", "/agent/web1")
    assert await check(f"127.0.0.1:{running.port}", name, root_pem, me) == "SERVING"
    assert await check(f"127.0.0.1:{running.enrollment}", name, root_pem, None) == "SERVING"


async def test_renewal_repeats_name_and_purpose(running: Running) -> None:
    service = running.mesh.credentials("servers", "/service", ["service.servers.telltale.test"])
    key = new_key()
    async with running.channel(service) as channel:
        answer = await authority_pb2_grpc.AuthorityStub(channel).Renew(
            authority_pb2.RenewRequest(signing_request=signing_request(key))
        )
    renewed = Credentials(key, tuple(answer.certificates))
    assert renewed.spiffe_id == service.spiffe_id
    assert renewed.thumbprint != service.thumbprint
    for extension in (x509.SubjectAlternativeName, x509.ExtendedKeyUsage):
        assert (
            renewed.leaf.extensions.get_extension_for_class(extension).value
            == service.leaf.extensions.get_extension_for_class(extension).value
        )


async def test_an_authority_serves_its_own_trust_domain_only(running: Running) -> None:
    async with running.channel(running.mesh.credentials("platform", "/writer")) as channel:
        stub = authority_pb2_grpc.AuthorityStub(channel)
        for call in (
            stub.Renew(authority_pb2.RenewRequest(signing_request=signing_request(new_key()))),
            stub.IssueToken(authority_pb2.IssueTokenRequest(audiences=["servers.telltale.test"])),
        ):
            failed = await refused(call)
            assert failed.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "has to ask its own" in (failed.details() or "")


async def test_a_token_is_bound_to_the_certificate_and_never_outlives_it(running: Running) -> None:
    running.mesh.authorities["servers"]._leaf_life = timedelta(minutes=5)
    brief = running.mesh.credentials("servers", "/agent/web1")
    async with running.channel(brief) as channel:
        answer = await authority_pb2_grpc.AuthorityStub(channel).IssueToken(
            authority_pb2.IssueTokenRequest(audiences=["servers.telltale.test", "platform.telltale.test"])
        )
    claims = jwt.decode(answer.token, options={"verify_signature": False})
    assert claims["sub"] == str(brief.spiffe_id)
    assert claims["iss"] == "servers.telltale.test"
    assert claims["aud"] == ["platform.telltale.test", "servers.telltale.test"]
    assert claims["exp"] == answer.expire_time.seconds <= brief.not_after.timestamp()
    assert running.mesh.trust.token_keys("servers.telltale.test")


@pytest.mark.parametrize(
    "audiences", [[], ["other.example"], [f"a{number}.telltale.test" for number in range(17)]]
)
async def test_audiences_are_trust_domains_of_the_mesh(running: Running, audiences: list[str]) -> None:
    async with running.channel(running.mesh.credentials("servers", "/agent/web1")) as channel:
        failed = await refused(
            authority_pb2_grpc.AuthorityStub(channel).IssueToken(
                authority_pb2.IssueTokenRequest(audiences=audiences)
            )
        )
    assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_every_use_and_refusal_of_a_join_token_is_recorded_with_who_and_where(running: Running) -> None:
    token, key = running.join_token(), new_key()
    late = running.join_token("/agent/late", life=timedelta(seconds=-1))
    await running.enroll(token, signing_request(key))
    await running.enroll(token, signing_request(key))
    await refused(running.enroll(token, signing_request(new_key())))
    await refused(running.enroll(late, signing_request(new_key())))
    await refused(running.enroll("join-x@servers.telltale.test/agent/web9", signing_request(new_key())))
    await refused(running.enroll("x" * 50_000, signing_request(new_key())))
    told = running.recorded.of("enroll")
    name = "spiffe://servers.telltale.test/agent/"
    assert [(one.allowed, one.principal, one.reason.partition(";")[0]) for one in told] == [
        (True, f"{name}web1", "its join token was used for the first time"),
        (True, f"{name}web1", "its join token was used again with the same key"),
        (False, f"{name}web1", "this join token was used with another key"),
        (False, f"{name}late", "this join token has expired"),
        (False, f"{name}web9", "this join token is unknown here"),
        (False, "", "this is no join token"),
    ]
    assert {one.subject for one in told[:3]} == {f"{name}web1"}
    # Nobody has proven anything, and everybody came from somewhere.
    assert {one.peer for one in told} == {""}
    assert {place_of(one.address) for one in told} == {"127.0.0.1"}


async def test_what_the_console_has_granted_is_recorded_by_the_running_authority_once(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["join-token", "--home", str(running.mesh.home.root.parent), "--domain", "servers"]
    for name in ("web1", "web2"):
        assert await asyncio.to_thread(main, [*command, "--path", f"/agent/{name}", "--group", "edge"]) == 0
    secrets = [JoinToken.parse(line).secret for line in capsys.readouterr().out.split()]
    async with asyncio.timeout(30):
        while running.ledger.console_invitations():  # noqa: ASYNC110 - what is waited for lies on disk
            await asyncio.sleep(0.05)
    told = running.recorded.of("invite")
    assert [(one.allowed, one.principal, one.subject.rpartition("/")[2]) for one in told] == [
        (True, "console", "web1"),
        (True, "console", "web2"),
    ]
    assert all("where the authority's key lies" in one.reason and "edge" in one.reason for one in told)
    assert len(secrets) == 2 and not any(secret in str(running.recorded) for secret in secrets)


async def test_no_join_token_gets_into_a_record_whatever_is_wrong_with_it(running: Running) -> None:
    token = running.join_token()
    secret = JoinToken.parse(token).secret
    await running.enroll(token, signing_request(new_key()))
    for broken in (token, f" {token}", token.replace("@", "#"), f"{secret}@x", token + "/..", f"@{token}"):
        await refused(running.enroll(broken, signing_request(new_key())))
    await refused(running.enroll(token, b"no signing request"))
    assert len(running.recorded.decisions) == 8
    assert secret not in str(running.recorded)


async def test_attempts_that_are_too_many_are_recorded_too(running: Running) -> None:
    request = signing_request(new_key())
    answers = [await refused(running.enroll("join-guess", request)) for _ in range(35)]
    assert len(running.recorded.of("enroll")) == len(answers)
    assert "too many attempts to join from" in running.recorded.of("enroll")[-1].reason


async def test_renewals_and_tokens_are_recorded_without_the_token(running: Running) -> None:
    agent, writer = (
        running.mesh.credentials("servers", "/agent/web1"),
        running.mesh.credentials("platform", "/w"),
    )
    async with running.channel(agent) as channel:
        stub = authority_pb2_grpc.AuthorityStub(channel)
        await stub.Renew(authority_pb2.RenewRequest(signing_request=signing_request(new_key())))
        await refused(stub.Renew(authority_pb2.RenewRequest(signing_request=b"none")))
        issued = await stub.IssueToken(authority_pb2.IssueTokenRequest(audiences=["servers.telltale.test"]))
        await refused(stub.IssueToken(authority_pb2.IssueTokenRequest(audiences=["elsewhere.example"])))
    async with running.channel(writer) as channel:
        stub = authority_pb2_grpc.AuthorityStub(channel)
        await refused(stub.IssueToken(authority_pb2.IssueTokenRequest(audiences=["servers.telltale.test"])))
    told = running.recorded.decisions
    assert [(one.action, one.allowed, one.principal) for one in told] == [
        ("renew", True, str(agent.spiffe_id)),
        ("renew", False, str(agent.spiffe_id)),
        ("issue_token", True, str(agent.spiffe_id)),
        ("issue_token", False, str(agent.spiffe_id)),
        ("authenticate", False, str(writer.spiffe_id)),
    ]
    assert "servers.telltale.test" in told[2].reason and "has to ask its own" in told[4].reason
    assert all(one.peer == one.principal and place_of(one.address) == "127.0.0.1" for one in told)
    assert not [part for part in issued.token.split(".") if part in str(running.recorded)]


async def test_nobody_holds_a_call_open_on_the_port_for_strangers(running: Running) -> None:
    name = running.mesh.server_name("authority", "servers")
    async with dial(f"127.0.0.1:{running.enrollment}", name, running.mesh.trust.root_pem) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)).status
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Watch(health_pb2.HealthCheckRequest(), timeout=10).read()
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("stranger", [True, False])
async def test_a_large_request_is_refused_before_it_has_come(running: Running, stranger: bool) -> None:
    port = running.enrollment if stranger else running.port
    who = None if stranger else running.mesh.credentials("servers", "/agent/web1")
    name, root = running.mesh.server_name("authority", "servers"), running.mesh.trust.root_pem
    request = authority_pb2.EnrollRequest(join_token="x" * LARGEST_MESSAGE).SerializeToString()
    async with stalling(f"127.0.0.1:{port}", LARGEST_MESSAGE // 2) as relay:
        async with dial(relay.address, name, root, who) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                method = "Enroll" if stranger else "Renew"
                await channel.unary_unary(f"/telltale.api.mesh.v1.Authority/{method}")(request)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
