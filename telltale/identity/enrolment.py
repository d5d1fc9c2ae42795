"""The client of a trust domain's authority: certificates for a join token or a certificate, and tokens."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import grpc
import grpc.aio
from cryptography.hazmat.primitives.asymmetric import ec

from telltale.api.mesh.v1 import authority_pb2, authority_pb2_grpc
from telltale.errors import InvalidInput, Precondition, TelltaleError, Unauthenticated, Unavailable
from telltale.identity.credentials import Credentials
from telltale.identity.dialling import dial
from telltale.identity.keys import new_key, signing_request
from telltale.identity.trust import Trust
from telltale.naming import SpiffeId, server_name

_TIMEOUT = 10.0
_MARK = "join-"
# A JWT, and not longer than what verifiers read.
_TOKEN = re.compile(r"(?=.{1,8192}\Z)[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
_T = TypeVar("_T")


@dataclass(frozen=True)
class JoinToken:
    """What a new workload gets from its operator: a secret, and the name that the secret is good for.

    As text: `join-<secret>@<trust domain><path>`.
    """

    secret: str
    spiffe_id: SpiffeId

    @classmethod
    def parse(cls, text: str) -> "JoinToken":
        """Reads a join token; raises InvalidInput without repeating the secret."""
        secret, at, name = text.strip().partition("@")
        if not secret.startswith(_MARK) or not at:
            raise InvalidInput("this is no join token; expected join-<secret>@<trust domain>/<path>")
        return cls(secret.removeprefix(_MARK), SpiffeId.parse(f"spiffe://{name}"))

    def __str__(self) -> str:
        return f"{_MARK}{self.secret}@{self.spiffe_id.trust_domain}{self.spiffe_id.path}"

    def __repr__(self) -> str:
        return f"JoinToken(for {self.spiffe_id})"


@dataclass(frozen=True)
class IssuedToken:
    """A bearer token and when it ends."""

    text: str
    expires: datetime


@dataclass(frozen=True)
class Joined:
    """What joining yields. The addresses are host:port, and empty where the authority was not told."""

    credentials: Credentials
    authority: str
    service: str


class Issuer(Protocol):
    """Where a workload's next certificate and its tokens come from."""

    async def renew(self, credentials: Credentials) -> Credentials:
        """The next credentials of the same identity, with a new key."""
        ...

    async def token(self, credentials: Credentials, audiences: Sequence[str]) -> IssuedToken:
        """A token for the services of these trust domains, bound to the certificate of these credentials."""
        ...


class AuthorityClient:
    """An issuer on the wire."""

    def __init__(self, trust: Trust, authority: str, enrollment: str) -> None:
        self._trust = trust
        self._authority = authority
        self._enrollment = enrollment

    async def enroll(self, token: JoinToken, key: ec.EllipticCurvePrivateKey) -> Credentials:
        """Trades the join token for a certificate. The same token and key may be tried again."""
        return (await self.join(token, key)).credentials

    async def join(self, token: JoinToken, key: ec.EllipticCurvePrivateKey) -> Joined:
        """As `enroll`, with what a fresh host has to know beside its certificate."""
        name = server_name("authority", token.spiffe_id.trust_domain)
        async with dial(self._enrollment, name, self._trust.root_pem) as channel:
            stub = authority_pb2_grpc.AuthorityStub(channel)
            request = authority_pb2.EnrollRequest(join_token=str(token), signing_request=signing_request(key))
            response = await asked(lambda: stub.Enroll(request, timeout=_TIMEOUT), self._enrollment)
        credentials = self._checked(key, response.certificates, token.spiffe_id)
        return Joined(credentials, response.authority_address, response.service_address)

    async def renew(self, credentials: Credentials) -> Credentials:
        key = new_key()
        async with self._channel(credentials) as channel:
            stub = authority_pb2_grpc.AuthorityStub(channel)
            request = authority_pb2.RenewRequest(signing_request=signing_request(key))
            response = await asked(lambda: stub.Renew(request, timeout=_TIMEOUT), self._authority)
        return self._checked(key, response.certificates, credentials.spiffe_id)

    async def token(self, credentials: Credentials, audiences: Sequence[str]) -> IssuedToken:
        async with self._channel(credentials) as channel:
            stub = authority_pb2_grpc.AuthorityStub(channel)
            request = authority_pb2.IssueTokenRequest(audiences=audiences)
            response = await asked(lambda: stub.IssueToken(request, timeout=_TIMEOUT), self._authority)
        return _issued(response, self._authority)

    def _channel(self, credentials: Credentials) -> grpc.aio.Channel:
        name = server_name("authority", credentials.spiffe_id.trust_domain)
        return dial(self._authority, name, self._trust.root_pem, credentials)

    def _checked(
        self, key: ec.EllipticCurvePrivateKey, certificates: Sequence[bytes], expected: SpiffeId
    ) -> Credentials:
        credentials = proven(self._trust, key, certificates)
        if credentials.spiffe_id != expected:
            raise Unauthenticated(
                f"the authority issued a certificate for {credentials.spiffe_id} instead of {expected}"
            )
        return credentials


def proven(trust: Trust, key: ec.EllipticCurvePrivateKey, certificates: Sequence[bytes]) -> Credentials:
    """Refuses a certificate that others would refuse, where the reason can still be told."""
    try:
        credentials = Credentials(key, tuple(certificates))
    except Exception as broken:  # the parser's own errors are of many types
        raise Unavailable("the authority answered with no certificate for this key") from broken
    leaf, *issuers = credentials.certificates
    trust.identify_peer(leaf, issuers)
    return credentials


async def asked(call: Callable[[], Awaitable[_T]], address: str) -> _T:
    """The authority's answer, or its refusal as this process's error."""
    try:
        answer = await call()
    except grpc.aio.AioRpcError as failed:
        raise _translated(failed, address) from failed
    if answer is None:
        # gRPC's way to say that it does not parse.
        raise Unavailable(f"the authority at {address} answered with what is no response")
    return answer


def _issued(response: authority_pb2.IssueTokenResponse, address: str) -> IssuedToken:
    """What goes into the metadata of calls: an authority that answers anything else stops nobody for good."""
    try:
        expires = response.expire_time.ToDatetime(UTC)
    except (ValueError, OverflowError):
        expires = datetime.min.replace(tzinfo=UTC)
    if not _TOKEN.fullmatch(response.token) or expires <= datetime.now(UTC):
        raise Unavailable(f"the authority at {address} answered with no token")
    return IssuedToken(response.token, expires)


def _translated(failed: grpc.aio.AioRpcError, address: str) -> TelltaleError:
    """The authority's refusals as this process's errors; whatever may pass by itself is Unavailable."""
    detail = f"the authority at {address} says: {failed.details()}"
    match failed.code():
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return Unauthenticated(detail)
        case grpc.StatusCode.INVALID_ARGUMENT:
            return InvalidInput(detail)
        case grpc.StatusCode.FAILED_PRECONDITION:
            return Precondition(detail)
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unavailable(
                f"the authority at {address} cannot be reached or is not the one expected: {failed.details()}"
            )
        case _:
            return Unavailable(detail)
