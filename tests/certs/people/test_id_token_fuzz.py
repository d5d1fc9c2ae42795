"""Whatever is shown as an ID token, or published as a provider's keys: a person, or a clear refusal."""

import asyncio
import base64
import json
import time
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from certs.people.id_token import IdTokenVerifier, Login
from certs.people.keys import ProviderKey, ProviderKeys, parse_keys
from certs.people.names import path_name
from certs.people.settings import ProviderSettings
from telltale.errors import TelltaleError
from tests.certs.test_fuzz import mutated

ISSUER, CLIENT, NONCE = "https://login.example.org", "telltale", "n-1"
SETTINGS = ProviderSettings(
    issuer=ISSUER, client_id=CLIENT, jwks="/nowhere", groups={"/mesh/operators": "responders"}
)


@cache
def signing_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def entry() -> dict[str, Any]:
    made: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(signing_key().public_key(), as_dict=True)
    return {**made, "kid": "one", "alg": "ES256", "use": "sig"}


@cache
def verifier() -> IdTokenVerifier:
    published = json.dumps({"keys": [entry()]}).encode()
    return IdTokenVerifier(SETTINGS, ProviderKeys(lambda: published, "here"))


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    return {
        "iss": ISSUER,
        "aud": CLIENT,
        "sub": "u-1",
        "iat": now,
        "exp": now + 300,
        "nonce": NONCE,
        "preferred_username": "alice",
        "groups": ["/mesh/operators"],
        **changed,
    }


def signed(payload: dict[str, Any], **headers: Any) -> str:
    """A token of the provider's own key, whatever it says: an encoder would look at it first."""
    head = {"alg": "ES256", "kid": "one", "typ": "JWT", **headers}
    parts = [json.dumps(one, allow_nan=True).encode() for one in (head, payload)]
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).sign(text, signing_key())
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def shown(token: str, nonce: str = NONCE) -> Login | str:
    """The login, or what the refusal says; any other error is a failure of the test."""
    try:
        return asyncio.run(verifier().verify(token, nonce))
    except TelltaleError as refused:
        return str(refused)


# Also what JSON can say and UTF-8 cannot.
_TEXT = st.text(st.characters(codec=None), max_size=20)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=8,
)
_NAMES = st.sampled_from([*claims(), "azp", "nbf", "jti", "email", "email_verified"])


def test_the_token_that_the_others_are_made_of_holds() -> None:
    login = shown(signed(claims()))
    assert isinstance(login, Login) and (login.subject, login.name) == ("u-1", "alice")


@given(st.data())
def test_an_id_token_that_was_changed_is_refused(data: st.DataObject) -> None:
    good = signed(claims())
    changed = mutated(data, good.encode()).decode("utf-8", "replace")
    # The last character of a signature holds bits that mean nothing.
    if changed.rpartition(".")[0] != good.rpartition(".")[0]:
        assert isinstance(shown(changed), str)


@given(st.one_of(st.text(max_size=40_000), st.from_regex(r"[\w-]{0,99}\.[\w-]{0,99}\.[\w-]{0,99}")))
def test_a_text_that_is_no_id_token_is_refused(text: str) -> None:
    assert isinstance(shown(text), str)


@given(st.dictionaries(_NAMES, _JSON, min_size=1, max_size=4))
def test_a_signed_token_that_says_anything_is_a_person_or_refused(changed: dict[str, Any]) -> None:
    login = shown(signed(claims(**changed)))
    if isinstance(login, Login):
        # What goes on from here into names, databases and certificates.
        assert login.subject.encode() and changed.get("nonce", NONCE) == NONCE
        assert changed.get("iss", ISSUER) == ISSUER and all(isinstance(group, str) for group in login.groups)
        try:
            assert path_name(login.name).isascii()
        except TelltaleError as refused:
            assert "mend it there" in str(refused) or "are the most" in str(refused)


@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jku", "jwk"]), _JSON, min_size=1)
)
def test_a_header_that_says_anything_changes_no_key_and_no_claim(headers: dict[str, Any]) -> None:
    login = shown(signed(claims(), **headers))
    assert isinstance(login, str) or (login.name == "alice" and headers.get("alg", "ES256") == "ES256")


@given(_TEXT)
def test_a_login_is_of_no_use_with_another_nonce(nonce: str) -> None:
    assert nonce == NONCE or isinstance(
        shown(signed(claims()), nonce.encode("utf-8", "replace").decode()), str
    )


def test_what_json_can_say_and_utf8_cannot_is_refused() -> None:
    for name in ("sub", "nonce", "preferred_username", "azp"):
        login = shown(signed(claims(**{name: "u\ud800"})))
        assert isinstance(login, str) or name == "preferred_username"


def keys_of(data: bytes) -> dict[str, ProviderKey]:
    """The keys; ValueError, and no other error, is what the reader of a provider's answer expects."""
    try:
        return parse_keys(data)
    except ValueError:
        return {}


@given(_JSON, st.sampled_from(["whole", "keys", "entry"]))
def test_what_a_provider_publishes_is_its_public_keys_or_none(value: Any, where: str) -> None:
    document = {"whole": value, "keys": {"keys": value}, "entry": {"keys": [value]}}[where]
    assert keys_of(json.dumps(document).encode()) == {}


@given(st.dictionaries(st.sampled_from([*entry(), "n", "e", "k", "key_ops", "x5c"]), _JSON, min_size=1))
def test_an_entry_that_was_changed_is_a_key_of_its_kind_or_left_out(changed: dict[str, Any]) -> None:
    other = {**entry(), "kid": "other", "x": "AA"}
    for found in keys_of(json.dumps({"keys": [{**entry(), **changed}, other, 7, None]}).encode()).values():
        assert found.algorithms <= {"ES256"} and isinstance(found.key, ec.EllipticCurvePublicKey)


@given(st.binary(max_size=2_000))
def test_bytes_that_are_no_key_set_hold_no_key(data: bytes) -> None:
    assert keys_of(data) == {}


def test_a_key_set_that_is_nested_without_end_holds_no_key() -> None:
    assert keys_of(b'{"keys":' + b"[" * 200_000) == {}
    deep = base64.urlsafe_b64encode(b"[" * 20_000).decode()
    assert isinstance(shown(f"{deep[:8_000]}.{deep[:8_000]}.AA"), str)
