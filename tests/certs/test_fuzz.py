"""Whatever bytes a stranger sends to enrolment and tokens: a clear refusal, no secret in it, nothing else."""

import base64
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import jwt
from hypothesis import given
from hypothesis import strategies as st

from certs.issuing import requested_key
from certs.ledger import Ledger
from certs.profiles import Profile
from telltale.errors import TelltaleError
from telltale.identity.enrolment import JoinToken
from telltale.identity.keys import new_key, signing_request
from telltale.identity.tokens import TokenVerifier, audiences_of
from telltale.identity.trust import chain_der, parse_jwks
from telltale.naming import SpiffeId
from tests.support.mesh import Mesh


@cache
def mesh() -> Mesh:
    """One for all examples: making it costs more than a thousand of them."""
    return Mesh.create(Path(mkdtemp(prefix="telltale-fuzz-")), "servers", "platform")


@cache
def request() -> bytes:
    return signing_request(new_key())


@cache
def ledger() -> tuple[Ledger, str]:
    """A ledger with one good token."""
    made = Ledger(mesh().home.authority("servers"))
    granted = made.grant(Profile(mesh().spiffe_id("servers", "/agent/fuzzed")))
    return made, str(granted.token)


@cache
def token() -> tuple[TokenVerifier, str, bytes]:
    """A verifier and a token that it takes with this thumbprint."""
    credentials = mesh().credentials("servers", "/agent/web1")
    audience = mesh().trust_domain("servers")
    issued = (
        mesh()
        .authorities["servers"]
        .issue_token(credentials.spiffe_id, credentials.thumbprint, [audience], credentials.not_after)
    )
    verifier = TokenVerifier(mesh().trust, audience)
    assert verifier.verify(issued.text, credentials.thumbprint).subject == credentials.spiffe_id
    return verifier, issued.text, credentials.thumbprint


def refusal(call: Callable[[], Any]) -> str | None:
    """What it says when it refuses; any other error is a failure of the test."""
    try:
        call()
    except TelltaleError as refused:
        return str(refused)
    return None


def mutated(data: st.DataObject, whole: bytes) -> bytes:
    """Some bytes of it replaced, cut out, or put in."""
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    return bytes(changed)


@given(st.data())
def test_a_signing_request_that_was_changed_yields_its_key_or_a_refusal(data: st.DataObject) -> None:
    changed = mutated(data, request())
    said = refusal(lambda: requested_key(changed))
    assert said is None or "signing request" in said


@given(st.binary(max_size=5_000))
def test_bytes_that_are_no_signing_request_are_refused(data: bytes) -> None:
    assert "signing request" in (refusal(lambda: requested_key(data)) or "")


@given(st.text(max_size=2_000))
def test_a_text_is_a_join_token_or_is_refused_without_being_repeated(text: str) -> None:
    said = refusal(lambda: JoinToken.parse(f"join-{text}"))
    secret = text.partition("@")[0]
    assert said is None or len(secret) < 12 or secret not in said


@given(st.data())
def test_a_join_token_that_was_changed_buys_nothing(data: st.DataObject) -> None:
    known, good = ledger()
    changed = mutated(data, good.encode()).decode("utf-8", "replace")

    def issue(profile: Profile) -> tuple[bytes, ...]:
        raise AssertionError("it was issued for")

    if changed != good:
        said = refusal(lambda: known.redeem(changed, bytes(32), issue))
        assert said is not None and "unknown" in said


@given(st.text(max_size=600))
def test_a_text_is_a_spiffe_id_that_says_the_same_again_or_is_refused(text: str) -> None:
    if refusal(lambda: SpiffeId.parse(text)) is None:
        assert str(SpiffeId.parse(text)) == text


@given(st.lists(st.text(max_size=80), max_size=20))
def test_audiences_without_sense_are_refused(audiences: list[str]) -> None:
    credentials = mesh().credentials("servers", "/agent/web1")
    authority = mesh().authorities["servers"]
    said = refusal(
        lambda: authority.issue_token(
            credentials.spiffe_id, credentials.thumbprint, audiences, credentials.not_after
        )
    )
    assert said is not None


@given(st.data())
def test_a_token_that_was_changed_is_refused(data: st.DataObject) -> None:
    verifier, good, thumbprint = token()
    changed = mutated(data, good.encode()).decode("utf-8", "replace")
    # The last character of a signature holds bits that mean nothing.
    if changed.rpartition(".")[0] != good.rpartition(".")[0]:
        assert refusal(lambda: verifier.verify(changed, thumbprint)) is not None


@given(st.one_of(st.text(max_size=10_000), st.from_regex(r"[\w-]{0,99}\.[\w-]{0,99}\.[\w-]{0,99}")))
def test_a_text_that_is_no_token_is_refused(text: str) -> None:
    verifier, _, thumbprint = token()
    assert refusal(lambda: verifier.verify(text, thumbprint)) is not None


def test_json_that_is_nested_without_end_is_no_token() -> None:
    verifier, _, thumbprint = token()
    deep = base64.urlsafe_b64encode(b"[" * 3_000).decode()
    for text in (f"{deep}.{deep}.AA", f"{token()[1].partition('.')[0]}.{deep}.AA"):
        said = refusal(lambda text=text: verifier.verify(text, thumbprint))  # type: ignore[misc]
        assert said is not None and len(said) < 500
        assert audiences_of(text) == frozenset()


_CLAIMS = ("iss", "sub", "aud", "iat", "exp", "jti", "cnf", "groups")


@given(st.dictionaries(st.sampled_from(_CLAIMS), st.deferred(lambda: _JSON) | st.floats(), min_size=1))
def test_a_token_that_its_authority_signed_and_that_says_anything_is_a_caller_or_refused(
    changed: dict[str, Any],
) -> None:
    """Whoever has taken an authority over signs what they like, and no other domain stumbles over it."""
    verifier, good, thumbprint = token()
    authority = mesh().authorities["servers"]
    claims = {**jwt.decode(good, options={"verify_signature": False}), **changed}
    try:
        text = jwt.encode(claims, authority._token_key, "ES256", headers={"kid": authority._token_key_id})
    except (TypeError, ValueError):
        # No encoder of ours writes it.
        return
    refusal(lambda: verifier.verify(text, thumbprint))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(_JSON, st.booleans())
def test_keys_of_a_trust_bundle_are_public_keys_or_refused(value: Any, inside: bool) -> None:
    data = json.dumps({"keys": value} if inside else value).encode()
    if refusal(lambda: parse_jwks(data, "fuzzed")) is None:
        assert parse_jwks(data, "fuzzed") == {}


@given(st.binary(max_size=2_000))
def test_a_certificate_that_cannot_be_read_is_none(data: bytes) -> None:
    assert chain_der(data) == ()
    assert chain_der(b"-----BEGIN CERTIFICATE-----\n" + data + b"\n-----END CERTIFICATE-----\n") == ()
