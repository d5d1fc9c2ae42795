"""A person's ID token at the real enrolment port: what it buys, and each reason for which it buys nothing."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from structlog.testing import capture_logs

from certs.__main__ import main
from certs.distrusts import Distrusts
from certs.ledger import Ledger
from certs.serve import AuthorityAddress, AuthoritySettings, serving_authority
from telltale.api.mesh.v1 import authority_pb2, authority_pb2_grpc
from telltale.audit import Decision
from telltale.errors import ConfigurationError, Precondition, Unauthenticated, Unavailable
from telltale.identity.dialling import dial
from telltale.identity.enrolment import AuthorityClient
from telltale.identity.keys import new_key, signing_request
from telltale.identity.person import GRANT_TYPE, ID_TOKEN, JWT, PersonSession, described, exchanged, nonce_of
from telltale.identity.tokens import TokenVerifier
from tests.support.mesh import Mesh
from tests.support.provider import CLIENT_ID, Provider, serving

Key = ec.EllipticCurvePrivateKey


class Heard:
    """An auditor that remembers."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def record(self, decision: Decision) -> None:
        self.decisions.append(decision)


@dataclass
class Running:
    """The operators' authority, which serves people."""

    mesh: Mesh
    provider: Provider
    address: str
    client: AuthorityClient
    heard: Heard = field(default_factory=Heard)

    async def exchange(self, token: str, key: Key) -> PersonSession:
        return await exchanged(self.mesh.trust, self.address, token, key)

    async def login(self, key: Key | None = None, **changed: Any) -> PersonSession:
        key = key or new_key()
        return await self.exchange(self.provider.id_token(nonce_of(key.public_key()), **changed), key)

    async def refused(self, token: str, key: Key | None = None) -> str:
        with pytest.raises(Unauthenticated) as wrong:
            await self.exchange(token, key or new_key())
        return str(wrong.value)

    async def refused_with(self, **changed: Any) -> str:
        key = new_key()
        nonce = changed.pop("nonce", nonce_of(key.public_key()))
        return await self.refused(self.provider.id_token(nonce, **changed), key)


def people(
    provider: Provider, file: Path, *, directory: dict[str, Any] | None = None, **changed: Any
) -> Path:
    settings = {
        "issuer": provider.issuer,
        "client_id": CLIENT_ID,
        "jwks": f"{provider.issuer}/jwks",
        "groups": {"/mesh/operators": "responders", "/mesh/network": "network"},
        **changed,
    }
    file.write_text(json.dumps({"provider": settings, "directory": directory}))
    return file


@asynccontextmanager
async def authority(path: Path, provider: Provider, **changed: Any) -> AsyncIterator[Running]:
    mesh = Mesh.create(path / "home", "operators", "servers", "platform")
    address = AuthorityAddress(
        directory=mesh.home.authority("operators"),
        listen="127.0.0.1:0",
        enrollment="127.0.0.1:0",
        gateway_address="gateway.example.org:7443",
        people=people(provider, path / "people.json", **changed),
    )
    settings = AuthoritySettings(
        authorities=(address,), trust=mesh.home.trust, enrollments_per_second_and_address=100
    )
    heard = Heard()
    async with serving_authority(address, settings, auditor=heard) as (port, enrollment):
        client = AuthorityClient(mesh.trust, f"127.0.0.1:{port}", f"127.0.0.1:{enrollment}")
        yield Running(mesh, provider, f"127.0.0.1:{enrollment}", client, heard)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with serving() as provider:
        yield provider


@pytest.fixture
async def running(tmp_path: Path, provider: Provider) -> AsyncIterator[Running]:
    async with authority(tmp_path, provider) as running:
        yield running


async def test_a_distrusted_person_logs_in_no_more_until_that_is_lifted(running: Running) -> None:
    key = new_key()
    token = running.provider.id_token(nonce_of(key.public_key()))
    first = await running.exchange(token, key)
    alice = first.credentials.spiffe_id
    words = Distrusts(Ledger(running.mesh.home.authority("operators")).state, alice.trust_domain)
    await asyncio.to_thread(words.distrust, alice, None, "her laptop was stolen", "console")
    # The running authority hears of it, and then neither the old session nor a new one counts.
    async with asyncio.timeout(30):
        while True:
            try:
                await running.client.token(first.credentials, ["servers.telltale.test"])
            except Unauthenticated as refused:
                assert "is distrusted since" in str(refused)
                break
            await asyncio.sleep(0.05)
    assert "is distrusted since" in await running.refused_with()
    assert "is distrusted since" in await running.refused(token, key)
    await asyncio.to_thread(words.lift, alice)
    async with asyncio.timeout(30):
        while True:
            try:
                again = await running.login()
                break
            except Unauthenticated:
                await asyncio.sleep(0.05)
    assert await running.client.token(again.credentials, ["servers.telltale.test"])
    with pytest.raises(Unauthenticated, match="for new keys only"):
        await running.client.token(first.credentials, ["servers.telltale.test"])


async def test_strangers_are_told_where_to_log_in(running: Running) -> None:
    told = await described(running.mesh.trust, running.address)
    assert (told.issuer, told.client_id, told.scopes) == (
        running.provider.issuer,
        CLIENT_ID,
        ("openid", "profile"),
    )


async def test_a_login_buys_a_short_session_with_the_groups_that_this_mesh_knows(running: Running) -> None:
    running.provider.person["groups"] = ["/mesh/operators", "/everybody", "responders", "/mesh/network"]
    before = datetime.now(UTC)
    session = await running.login()
    assert str(session.credentials.spiffe_id) == "spiffe://operators.telltale.test/person/alice"
    assert session.groups == ("network", "responders")
    assert session.credentials.not_after == session.ends
    assert timedelta(hours=7, minutes=59) < session.ends - before < timedelta(hours=8, minutes=1)
    assert session.trust_domains == (
        "operators.telltale.test",
        "platform.telltale.test",
        "servers.telltale.test",
    )
    assert session.gateway == "gateway.example.org:7443"
    assert session.authority == running.client._authority


async def test_the_token_is_bound_to_the_certificate_and_carries_the_groups_as_every_later_one(
    running: Running,
) -> None:
    session = await running.login()
    renewed = await running.client.renew(session.credentials)
    assert renewed.not_after == session.ends
    later = await running.client.token(renewed, ["servers.telltale.test"])
    verifier = TokenVerifier(running.mesh.trust, "servers.telltale.test")
    for text, credentials in ((session.token.text, session.credentials), (later.text, renewed)):
        token = verifier.verify(text, credentials.thumbprint)
        assert token.subject == session.credentials.spiffe_id
        assert token.groups == {"responders"}
    with pytest.raises(Unauthenticated, match="bound to another certificate"):
        verifier.verify(session.token.text, renewed.thumbprint)


async def test_an_id_token_is_worth_nothing_with_another_devices_key(running: Running) -> None:
    token = running.provider.id_token(nonce_of(new_key().public_key()))
    assert "belongs to another device's key" in await running.refused(token)
    assert "belongs to another device's key" in await running.refused(
        running.provider.id_token(""), new_key()
    )


async def test_the_same_id_token_and_key_get_their_certificate_again_and_another_key_none(
    running: Running,
) -> None:
    key = new_key()
    token = running.provider.id_token(nonce_of(key.public_key()))
    first, again = await running.exchange(token, key), await running.exchange(token, key)
    assert again.credentials.certificates == first.credentials.certificates
    assert (again.ends, again.groups) == (first.ends, first.groups)
    assert "another device's key" in await running.refused(token)
    # Another login of the same key is another session.
    other = await running.login(key, iat=int(time.time()) - 1)
    assert other.credentials.thumbprint != first.credentials.thumbprint


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"iss": "https://elsewhere.example.org"}, "is not of http://127.0.0.1"),
        ({"iss": None}, "is not of http://127.0.0.1"),
        ({"aud": "another"}, "is for another client than telltale"),
        ({"aud": ["telltale", "another"]}, "for several clients and names no `azp`"),
        ({"aud": ["telltale", "another"], "azp": "another"}, "issued to another client"),
        ({"azp": "another"}, "issued to another client"),
        ({"nonce": None}, 'Token is missing the "nonce" claim'),
        ({"nonce": ["x"]}, "another device's key"),
        ({"sub": None}, 'missing the "sub" claim'),
        ({"sub": 5}, "Subject must be a string"),
        ({"iat": "yesterday"}, "does not say when it was issued"),
        ({"kid": "nobody's"}, "does not publish"),
        ({"preferred_username": None}, "has no claim `preferred_username`"),
        ({"preferred_username": ""}, "cannot be printed"),
        ({"preferred_username": "alice\n"}, "cannot be printed"),
        ({"preferred_username": "a" * 129}, "128 are the most"),
        ({"groups": {"a": 1}}, "is no list"),
        ({"groups": ["/everybody"]}, "in no group that this mesh knows"),
        ({"groups": []}, "in no group that this mesh knows"),
        ({"groups": None}, "in no group that this mesh knows"),
        ({"groups": [["/mesh/operators"], 7]}, "in no group that this mesh knows"),
        ({"padding": "x" * 40_000}, "is too long"),
    ],
)
async def test_what_an_id_token_must_say_is_checked(
    running: Running, changed: dict[str, Any], reason: str
) -> None:
    assert reason in await running.refused_with(**changed)


async def test_an_expired_and_an_old_id_token_and_one_of_the_future_are_refused(running: Running) -> None:
    now = int(time.time())
    assert "expired" in await running.refused_with(iat=now - 400, exp=now - 100)
    for issued in (now - 700, now + 100, 10**18, -(10**18)):
        reason = await running.refused_with(iat=issued, exp=now + 300)
        assert "too long ago or in the future" in reason or "does not say when" in reason


async def test_only_the_providers_own_signature_counts(running: Running) -> None:
    provider, key = running.provider, new_key()
    nonce = nonce_of(key.public_key())
    good = provider.id_token(nonce)
    public = provider.keys["one"][0].public_key()
    head, body, signature = good.split(".")

    def forged(header: dict[str, str], by: bytes = b"") -> str:
        def part(data: bytes) -> str:
            return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

        return f"{part(json.dumps(header).encode())}.{body}.{part(by)}"

    # With the public key as the secret: a verifier that lets the token choose would take it.
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    hmac_key = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    header = {"alg": "HS256", "kid": "one"}
    signed = forged(header).rpartition(".")[0]
    hs256 = forged(header, hmac_key.sign(signed.encode(), pem))
    for token, reason in (
        (forged({"alg": "none", "kid": "one"}), "signed with 'none'"),
        (hs256, "signed with 'HS256'"),
        (forged({"alg": "RS256", "kid": "one"}, b"x" * 256), "does not hold"),
        (f"{head}.{body}.{signature[::-1]}", "does not hold"),
        (provider.id_token(nonce, key=ec.generate_private_key(ec.SECP256R1())), "does not hold"),
        ("", "does not hold"),
        ("a.b.c", "does not hold"),
    ):
        assert reason in await running.refused(token, key)
    assert await running.exchange(good, key), "the refusals used the token up"


async def test_a_secret_among_the_published_keys_signs_nothing(running: Running) -> None:
    secret = b"published by mistake, or by somebody clever"
    running.provider.extra_jwks = [
        {"kty": "oct", "kid": "secret", "alg": "HS256", "k": base64.urlsafe_b64encode(secret).decode()}
    ]
    assert "signed with 'HS256'" in await running.refused_with(kid="secret", alg="HS256", key=secret)


async def test_keys_that_the_provider_rolls_are_found_and_strangers_cannot_make_the_authority_ask(
    running: Running,
) -> None:
    provider = running.provider
    await running.login()
    assert provider.jwks_served == 1
    provider.keys["two"] = (rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256")
    for _ in range(20):
        assert "does not publish" in await running.refused_with(kid="nobody's", alg="ES256")
    # The pause after the last look has not passed: neither the strangers nor the new key have made it ask.
    assert provider.jwks_served == 1


async def test_a_name_stays_with_its_first_account_until_it_is_freed(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    await running.login()
    reason = await running.refused_with(sub="u-2")
    assert "belongs to another account of the provider" in reason
    assert "forget-person --name alice" in reason
    assert await running.login(), "the first account lost its name"
    home = str(running.mesh.home.directory)
    assert main(["forget-person", "--home", home, "--name", "alice"]) == 0
    assert "alice is free" in capsys.readouterr().out
    assert await running.login(sub="u-2")
    assert "another account" in await running.refused_with()
    assert main(["forget-person", "--home", home, "--name", "nobody"]) == 1


async def test_names_that_differ_are_identities_that_differ(running: Running) -> None:
    names = [
        "Alice",
        "alice",
        "alice_40x",
        "alice@x",
        "alice_",
        "alice__",
        "alice/../bob",
        "..",
        "älice",
        "a b",
    ]
    seen = [
        str((await running.login(sub=name, preferred_username=name)).credentials.spiffe_id.path)
        for name in names
    ]
    assert len(set(seen)) == len(names)
    assert seen[3] == "/person/alice_40x"
    assert seen[7] == "/person/_2e."


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("grant_type", "authorization_code"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"),
        ("signing_request", b"none"),
        ("audience", ["elsewhere.example.org"]),
    ],
)
async def test_an_exchange_of_another_kind_is_refused(running: Running, field: str, value: Any) -> None:
    key = new_key()
    asked = {
        "grant_type": GRANT_TYPE,
        "subject_token": running.provider.id_token(nonce_of(key.public_key())),
        "subject_token_type": ID_TOKEN,
        "signing_request": signing_request(key),
    }
    name = running.mesh.server_name("authority", "operators")
    async with dial(running.address, name, running.mesh.trust.root_pem) as channel:
        stub = authority_pb2_grpc.AuthorityStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.ExchangeToken(authority_pb2.ExchangeTokenRequest(**{**asked, field: value}))
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        asked["subject_token_type"] = JWT
        answer = await stub.ExchangeToken(
            authority_pb2.ExchangeTokenRequest(**asked, audience=["servers.telltale.test"])
        )
    claims = jwt.decode(answer.access_token, options={"verify_signature": False})
    assert claims["aud"] == ["servers.telltale.test"]


async def test_every_login_and_every_refusal_is_recorded_and_no_token_is(running: Running) -> None:
    tokens = []
    with capture_logs() as logs:
        for changed in ({}, {"aud": "another"}):
            key = new_key()
            token = running.provider.id_token(nonce_of(key.public_key()), **changed)
            tokens.append(token)
            try:
                await running.exchange(token, key)
            except Unauthenticated:
                continue
    allowed, refused = running.heard.decisions
    assert (allowed.action, allowed.allowed, allowed.principal) == (
        "login",
        True,
        "spiffe://operators.telltale.test/person/alice",
    )
    assert "groups responders" in allowed.reason
    assert (refused.action, refused.allowed) == ("login", False)
    assert refused.principal == f"{running.provider.issuer} u-1"
    assert "another client" in refused.reason
    assert all(decision.address.startswith("ipv4:127.0.0.1:") for decision in running.heard.decisions)
    assert [entry["event"] for entry in logs if "log" in entry["event"]] == ["logged in", "login refused"]
    for token in tokens:
        assert token not in str(logs) + str(running.heard.decisions)


async def test_the_reuse_of_a_stolen_id_token_does_not_hide_behind_guesses(running: Running) -> None:
    token = running.provider.id_token(nonce_of(new_key().public_key()))
    await running.refused(token)
    for number in range(3):
        await running.refused(f"guess-{number}")
    first, *guesses = (one for one in running.heard.decisions if not one.allowed)
    assert "belongs to another device's key" in first.reason and first.kind == ""
    assert {one.kind for one in guesses} == {"Unproven"}


async def test_an_address_is_a_name_only_where_the_provider_has_verified_it(
    tmp_path: Path, provider: Provider
) -> None:
    async with authority(tmp_path, provider, name_claim="email") as running:
        assert "has not verified" in await running.refused_with(email="bob@example.org")
        assert "has not verified" in await running.refused_with(
            email="bob@example.org", email_verified="true"
        )
        session = await running.login(email="bob@example.org", email_verified=True)
    assert session.credentials.spiffe_id.path == "/person/bob_40example.org"


async def test_keys_may_lie_in_a_file_and_a_key_without_an_id_is_the_only_one(
    tmp_path: Path, provider: Provider
) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(provider.jwks()))
    async with authority(tmp_path, provider, jwks=str(file)) as running:
        assert await running.login(kid=None)
    assert provider.jwks_served == 0


async def test_without_the_providers_keys_nobody_logs_in(tmp_path: Path, provider: Provider) -> None:
    async with authority(tmp_path, provider, jwks=f"{provider.issuer}/nothing") as running:
        with pytest.raises(Unavailable, match="provider's keys cannot be read"):
            await running.login()


async def test_too_many_attempts_are_turned_away(tmp_path: Path, provider: Provider) -> None:
    mesh = Mesh.create(tmp_path / "home", "operators", "servers")
    address = AuthorityAddress(
        directory=mesh.home.authority("operators"),
        listen="127.0.0.1:0",
        enrollment="127.0.0.1:0",
        people=people(provider, tmp_path / "people.json"),
    )
    settings = AuthoritySettings(authorities=(address,), trust=mesh.home.trust)
    async with serving_authority(address, settings) as (_, enrollment):
        name = mesh.server_name("authority", "operators")
        async with dial(f"127.0.0.1:{enrollment}", name, mesh.trust.root_pem) as channel:
            stub = authority_pb2_grpc.AuthorityStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                for number in range(100):
                    if number % 2:
                        await stub.DescribeLogin(authority_pb2.DescribeLoginRequest())
                        continue
                    try:
                        await stub.ExchangeToken(authority_pb2.ExchangeTokenRequest())
                    except grpc.aio.AioRpcError as refused:
                        if refused.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                            raise
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_authority_without_people_says_so(tmp_path: Path) -> None:
    mesh = Mesh.create(tmp_path, "operators")
    address = AuthorityAddress(
        directory=mesh.home.authority("operators"), listen="127.0.0.1:0", enrollment="127.0.0.1:0"
    )
    async with serving_authority(address, AuthoritySettings(authorities=(address,))) as (_, enrollment):
        with pytest.raises(Precondition, match="people do not log in at"):
            await described(mesh.trust, f"127.0.0.1:{enrollment}")


async def test_people_are_operators_and_of_no_other_domain(tmp_path: Path, provider: Provider) -> None:
    mesh = Mesh.create(tmp_path / "home", "servers", "operators")
    for domain, trust, reason in (
        ("servers", mesh.home.trust, "people are operators"),
        ("operators", None, "people need TELLTALE_TRUST"),
    ):
        address = AuthorityAddress(
            directory=mesh.home.authority(domain),
            listen="127.0.0.1:0",
            enrollment="127.0.0.1:0",
            people=people(provider, tmp_path / "people.json"),
        )
        with pytest.raises(ConfigurationError, match=reason):
            async with serving_authority(address, AuthoritySettings(authorities=(address,), trust=trust)):
                pass
