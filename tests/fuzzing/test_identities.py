"""Whatever comes for an identity: certificates, tokens, lists of distrust, bundles, answers to a newcomer."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import DecodeError

from telltale.api.mesh.v1.authority_pb2 import DistrustEntries, EnrollResponse, SignedDistrustList
from telltale.identity.bundle import parse_roots, pem_of
from telltale.identity.distrust import Entry
from telltale.identity.distrust_lists import MOST_ENTRIES, make_list, read_list
from telltale.identity.enrolment import proven
from telltale.identity.keys import thumbprint
from telltale.identity.newcomer import checked_address
from telltale.identity.tokens import MOST_GROUPS, TokenVerifier
from telltale.identity.trust import Trust
from tests.fuzzing import world
from tests.fuzzing.campaign import Share, Target, run, shares


@cache
def trust() -> Trust:
    return world.mesh().trust


def leaves() -> list[bytes]:
    return [world.credentials().certificates[0]]


def a_leaf(data: bytes) -> bool:
    """It is the source's or nobody's."""
    found = trust().identify(data, world.credentials().certificates[1:], datetime.now(UTC))
    assert found == world.credentials().spiffe_id
    return True


def issuers() -> list[bytes]:
    return [world.credentials().certificates[1]]


def an_issuer(data: bytes) -> bool:
    """What it vouches for is what the real one does."""
    found = trust().identify(world.credentials().certificates[0], [data], datetime.now(UTC))
    assert found == world.credentials().spiffe_id
    return True


def claims() -> list[bytes]:
    credentials = world.credentials()
    authority = world.mesh().authorities["servers"]
    audience = world.mesh().trust_domain("servers")
    issued = authority.issue_token(
        credentials.spiffe_id, credentials.thumbprint, [audience], credentials.not_after, ["sre"]
    )
    said = jwt.decode(issued.text, options={"verify_signature": False})
    return [json.dumps(said).encode()]


@cache
def tokens() -> TokenVerifier:
    return TokenVerifier(trust(), world.mesh().trust_domain("servers"))


def some_claims(data: bytes) -> bool:
    """Whatever an authority signs as a token speaks of its own, for a quarter of an hour at most."""
    try:
        said = json.loads(data)
        text = world.mesh().authorities["servers"].sign(said, "JWT")
    except (ValueError, TypeError, RecursionError, jwt.PyJWTError):
        return False
    token = tokens().verify(text, world.credentials().thumbprint)
    assert token.subject.trust_domain == world.mesh().trust_domain("servers")
    assert (token.expires - token.issued).total_seconds() <= 900
    assert len(token.groups) <= MOST_GROUPS
    return True


@cache
def words() -> SignedDistrustList:
    spiffe_id = world.credentials().spiffe_id
    now = datetime.now(UTC)
    said = [
        Entry(spiffe_id, now, None, "stolen", "alice", now),
        Entry(spiffe_id, now, now, "back", "bob", now),
    ]
    made = make_list(spiffe_id.trust_domain, 7, said, world.mesh().authorities["servers"].sign)
    return SignedDistrustList(statement=made.statement, entries=made.encoded)


def lists() -> list[bytes]:
    return [words().SerializeToString()]


def a_list(data: bytes) -> bool:
    """It is what its trust domain signed, or it is not believed."""
    found = read_list(SignedDistrustList.FromString(data), trust())
    assert found is not None
    assert (found.statement, found.encoded) == (words().statement, words().entries)
    return True


def entries() -> list[bytes]:
    return [words().entries]


def some_entries(data: bytes) -> bool:
    """Whatever a trust domain signs speaks of its own identities."""
    issuer = world.mesh().trust_domain("servers")
    said = {"iss": issuer, "iat": 1_700_000_000, "seq": 1, "entries_sha256": thumbprint(data).hex()}
    statement = world.mesh().authorities["servers"].sign(said, "telltale-distrust+jwt")
    found = read_list(SignedDistrustList(statement=statement, entries=data), trust())
    assert found is not None and len(found.entries) <= MOST_ENTRIES
    assert len(DistrustEntries.FromString(data).entries) == len(found.entries)
    for entry in found.entries:
        assert entry.spiffe_id.trust_domain == issuer and str(entry)
    return True


def answers() -> list[bytes]:
    answer = EnrollResponse(
        certificates=world.credentials().certificates,
        mesh=world.mesh().name,
        authority_address="authority.example:4433",
        service_address="10.0.0.1:4434",
    )
    return [answer.SerializeToString()]


def an_answer(data: bytes) -> bool:
    """What an authority answers to who joins proves the newcomer, or is no answer."""
    answer = EnrollResponse.FromString(data)
    credentials = proven(trust(), world.credentials().key, answer.certificates)
    assert credentials.spiffe_id == world.credentials().spiffe_id
    for address in (answer.authority_address, answer.service_address):
        assert "://" not in checked_address(address) and "\n" not in address
    return True


def bundles() -> list[bytes]:
    roots = parse_roots(trust().root_pem, "root.pem")
    return [pem_of(roots), pem_of(roots) + pem_of(roots)]


def a_bundle(data: bytes) -> bool:
    """It is certificates."""
    roots = parse_roots(data, "root.pem")
    assert all(isinstance(root, x509.Certificate) and root.public_bytes(Encoding.PEM) for root in roots)
    return bool(roots)


PARSING = (DecodeError,)


@shares(
    Target("leaf", 40_000, leaves, a_leaf),
    Target("issuer", 30_000, issuers, an_issuer),
    Target("claims of a token", 30_000, claims, some_claims, text=True),
    Target("list of distrust", 40_000, lists, a_list, refusals=PARSING),
    Target("words of distrust", 20_000, entries, some_entries),
    Target("answer of an authority", 30_000, answers, an_answer, refusals=PARSING),
    Target("bundle of roots", 30_000, bundles, a_bundle, text=True),
)
def test_an_identity_is_what_was_proven_or_nobodys(
    share: Share, record_property: Callable[[str, object], None]
) -> None:
    run(share, record_property)
