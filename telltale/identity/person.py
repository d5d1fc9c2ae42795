"""A person's session: at the operators' authority an ID token becomes a certificate and a token."""

import base64
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric import ec

from telltale.api.mesh.v1 import authority_pb2, authority_pb2_grpc
from telltale.errors import Unauthenticated
from telltale.identity.credentials import Credentials
from telltale.identity.dialling import dial
from telltale.identity.enrolment import IssuedToken, asked, proven
from telltale.identity.keys import key_sha256, signing_request
from telltale.identity.trust import Trust
from telltale.naming import OPERATORS, server_name, trust_domain

# RFC 8693, sections 2.1 and 3.
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
JWT = "urn:ietf:params:oauth:token-type:jwt"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"

_TIMEOUT = 30.0
# Somebody waits, and the key on this machine goes whatever the answer is.
_LOGOUT_TIMEOUT = 5.0


@dataclass(frozen=True)
class Provider:
    """Where people log in."""

    issuer: str
    client_id: str
    scopes: tuple[str, ...]


@dataclass(frozen=True)
class PersonSession:
    """What a login yields. The addresses are host:port, and empty where the authority was not told."""

    credentials: Credentials
    token: IssuedToken
    ends: datetime
    groups: tuple[str, ...]
    trust_domains: tuple[str, ...]
    authority: str
    gateway: str


def nonce_of(public_key: ec.EllipticCurvePublicKey) -> str:
    """Ties a login to the key of the device that asks for it."""
    return base64.urlsafe_b64encode(key_sha256(public_key)).rstrip(b"=").decode()


async def described(trust: Trust, enrollment: str) -> Provider:
    """Where the people of this mesh log in, by the word of the authority at host:port."""
    async with dial(enrollment, _authority(trust), trust.root_pem) as channel:
        stub = authority_pb2_grpc.AuthorityStub(channel)
        request = authority_pb2.DescribeLoginRequest()
        told = await asked(lambda: stub.DescribeLogin(request, timeout=_TIMEOUT), enrollment)
    return Provider(told.issuer, told.client_id, tuple(told.scopes))


async def exchanged(
    trust: Trust, enrollment: str, id_token: str, key: ec.EllipticCurvePrivateKey
) -> PersonSession:
    """Trades the ID token of a login with the nonce of this key. Both may be tried again."""
    async with dial(enrollment, _authority(trust), trust.root_pem) as channel:
        stub = authority_pb2_grpc.AuthorityStub(channel)
        request = authority_pb2.ExchangeTokenRequest(
            grant_type=GRANT_TYPE,
            subject_token=id_token,
            subject_token_type=ID_TOKEN,
            requested_token_type=ACCESS_TOKEN,
            signing_request=signing_request(key),
        )
        answer = await asked(lambda: stub.ExchangeToken(request, timeout=_TIMEOUT), enrollment)
    credentials = proven(trust, key, answer.certificates)
    if credentials.spiffe_id.trust_domain != trust_domain(OPERATORS, trust.mesh):
        raise Unauthenticated(
            f"the authority issued a certificate for {credentials.spiffe_id}, who is no person"
        )
    return PersonSession(
        credentials,
        IssuedToken(answer.access_token, answer.expire_time.ToDatetime(UTC)),
        answer.session_expire_time.ToDatetime(UTC),
        tuple(answer.groups),
        tuple(answer.trust_domains),
        answer.authority_address,
        answer.gateway_address,
    )


async def end_session(trust: Trust, authority: str, credentials: Credentials) -> None:
    """Ends a session at the authority at host:port. Raises TelltaleError when that could not be done."""
    async with dial(authority, _authority(trust), trust.root_pem, credentials) as channel:
        stub = authority_pb2_grpc.AuthorityStub(channel)
        request = authority_pb2.EndSessionRequest()
        await asked(lambda: stub.EndSession(request, timeout=_LOGOUT_TIMEOUT), authority)


def _authority(trust: Trust) -> str:
    return server_name("authority", trust_domain(OPERATORS, trust.mesh))
