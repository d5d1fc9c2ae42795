"""A provider's keys: which are taken, and when they are asked for."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certs.people.keys import ProviderKeys, parse_keys
from certs.people.settings import ProviderSettings
from telltale.errors import Unauthenticated, Unavailable
from tests.support.provider import Provider, serving

EC, RSA, OKP = jwt.algorithms.ECAlgorithm, jwt.algorithms.RSAAlgorithm, jwt.algorithms.OKPAlgorithm


def entry(kind: Any, key: Any, **more: Any) -> dict[str, Any]:
    return {**kind.to_jwk(key.public_key(), as_dict=True), **more}


def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def jwk_set(*entries: Any) -> bytes:
    return json.dumps({"keys": entries}).encode()


P256 = entry(EC, ec.generate_private_key(ec.SECP256R1()), kid="p256")


class Source:
    """Keys somewhere else, and a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.content: bytes | None = jwk_set(P256)
        self.asked = 0
        self.keys = ProviderKeys(self.read, "there", lambda: self.now)

    def read(self) -> bytes:
        self.asked += 1
        if self.content is None:
            raise OSError("nobody there")
        return self.content


async def test_keys_are_kept_for_ten_minutes_and_then_looked_at_again() -> None:
    source = Source()
    for _ in range(3):
        await source.keys.key("p256")
    assert source.asked == 1
    source.now += 599
    await source.keys.key("p256")
    assert source.asked == 1
    source.now += 1
    await source.keys.key("p256")
    assert source.asked == 2


async def test_a_withdrawn_key_is_believed_no_longer_than_that() -> None:
    source = Source()
    await source.keys.key("p256")
    source.content = jwk_set(entry(EC, ec.generate_private_key(ec.SECP256R1()), kid="next"))
    await source.keys.key("p256")
    source.now += 600
    with pytest.raises(Unauthenticated, match="does not publish"):
        await source.keys.key("p256")


async def test_an_unknown_key_is_asked_for_at_most_every_half_minute() -> None:
    source = Source()
    await source.keys.key("p256")
    source.content = jwk_set(P256, entry(EC, ec.generate_private_key(ec.SECP256R1()), kid="next"))
    for _ in range(10):
        with pytest.raises(Unauthenticated, match="does not publish"):
            await source.keys.key("next")
    assert source.asked == 1
    source.now += 30
    assert await source.keys.key("next")
    assert source.asked == 2


async def test_a_provider_that_does_not_answer_is_not_asked_at_once_again_and_lets_nobody_in() -> None:
    source = Source()
    source.content = None
    for _ in range(3):
        with pytest.raises(Unavailable, match="cannot be read from there"):
            await source.keys.key("p256")
    assert source.asked == 1
    source.content = jwk_set(P256)
    source.now += 30
    await source.keys.key("p256")
    source.content = None
    # What was read lately still counts.
    with pytest.raises(Unauthenticated):
        await source.keys.key("next")
    await source.keys.key("p256")
    source.now += 600
    with pytest.raises(Unavailable):
        await source.keys.key("p256")


def test_a_key_is_for_what_it_is_and_what_it_says_and_for_nothing_else() -> None:
    found = parse_keys(
        jwk_set(
            P256,
            entry(EC, ec.generate_private_key(ec.SECP384R1()), kid="p384", alg="ES384"),
            entry(EC, ec.generate_private_key(ec.SECP256R1()), kid="mislabelled", alg="ES384"),
            entry(EC, ec.generate_private_key(ec.SECP256K1()), kid="k1"),
            entry(RSA, rsa_key(2048), kid="rsa", alg="RS256"),
            entry(RSA, rsa_key(2048), kid="any"),
            entry(RSA, rsa_key(1024), kid="small"),
            entry(RSA, rsa_key(2048), kid="enc", use="enc"),
            entry(OKP, ed25519.Ed25519PrivateKey.generate(), kid="ed"),
            {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"},
            {"kty": "new", "kid": "unknown"},
            {"kty": "EC", "kid": "broken"},
            "no entry",
        )
    )
    assert {kid: sorted(key.algorithms) for kid, key in found.items()} == {
        "p256": ["ES256"],
        "p384": ["ES384"],
        "rsa": ["RS256"],
        "any": ["PS256", "PS384", "PS512", "RS256", "RS384", "RS512"],
        "ed": ["EdDSA"],
    }


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"keys": 7}', b'{"keys": []}', jwk_set({"kty": "oct", "k": "c2VjcmV0"})]
)
def test_a_set_without_a_public_key_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"JWK set|no public key|Expecting value"):
        parse_keys(content)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with serving() as provider:
        yield provider


async def test_a_redirect_to_another_address_is_not_followed(provider: Provider) -> None:
    there = f"{provider.issuer}/authorize?client_id=telltale&response_type=code&code_challenge_method=S256"
    redirect = f"{there}&scope=openid&state=x&redirect_uri=http://127.0.0.1:1/"
    settings = ProviderSettings(
        issuer=provider.issuer, client_id="telltale", jwks=redirect, groups={"a": "a"}
    )
    with pytest.raises(Unavailable):
        await ProviderKeys.of(settings).key("one")


async def test_a_file_that_is_not_there_lets_nobody_in(tmp_path: Path) -> None:
    settings = ProviderSettings(
        issuer="https://login.example.org",
        client_id="telltale",
        jwks=str(tmp_path / "none.json"),
        groups={"a": "a"},
    )
    with pytest.raises(Unavailable, match=r"none\.json"):
        await ProviderKeys.of(settings).key("one")
