"""The Authority service: enrolment on a port for strangers, renewal and tokens behind mTLS."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from typing import Any

import grpc.aio
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.addresses import Addresses
from certs.distrusting import Distrusting
from certs.invitations import Invitations
from certs.issuing import IssuingAuthority, requested_key
from certs.ledger import Ledger, Redeemed
from certs.limits import KnockLimit
from certs.lineage import Lineage
from certs.people.logins import Logins
from certs.profiles import is_person, profile_of
from certs.record import ENROLL, ISSUE_TOKEN, LOGIN, LOGOUT, RENEW, USE_SUPERSEDED, Record
from certs.sessions import Session, Sessions
from telltale.api.mesh.v1 import authority_pb2, authority_pb2_grpc
from telltale.errors import InvalidInput, LimitExceeded, Precondition, TelltaleError, Unauthenticated
from telltale.identity.enrolment import IssuedToken, JoinToken
from telltale.identity.keys import key_sha256, thumbprint
from telltale.naming import OPERATORS, domain_of
from telltale.rpc.auth import CertificateAuthenticator, caller

Context = grpc.aio.ServicerContext[Any, Any]
_LONGEST_JOIN_TOKEN = 1024

_log = structlog.get_logger("certs")


class EnrolmentService(authority_pb2_grpc.AuthorityServicer):
    """Enroll and the logins of people, for those who have no certificate yet."""

    def __init__(
        self,
        authority: IssuingAuthority,
        ledger: Ledger,
        limit: KnockLimit,
        addresses: Addresses,
        record: Record,
        logins: Logins | None = None,
    ) -> None:
        self._record = record
        self._authority = authority
        self._ledger = ledger
        self._limit = limit
        self._addresses = addresses
        self._logins = logins

    async def Enroll(
        self, request: authority_pb2.EnrollRequest, context: Context
    ) -> authority_pb2.EnrollResponse:
        peer = context.peer()
        self._knock(context, ENROLL)
        try:
            redeemed = await asyncio.to_thread(self._enroll, request)
        except TelltaleError as refused:
            claimed = _claimed(request.join_token)
            # The ledger's words are its own: that a token was used twice shall not hide behind a guess.
            kind = "" if isinstance(refused, Unauthenticated) else type(refused).__name__
            self._record.stranger(context, ENROLL, claimed, str(refused), allowed=False, kind=kind)
            # The platform's log may be out of reach, or in the hands of whoever tries.
            _log.warning("enrolment refused", claimed=claimed, peer=peer, reason=str(refused))
            raise
        certificates = redeemed.certificates
        leaf = _log_issued("enrolled", certificates, peer)
        used = "used again with the same key" if redeemed.again else "used for the first time"
        self._record.stranger(
            context, ENROLL, str(profile_of(leaf).spiffe_id), f"its join token was {used}", allowed=True
        )
        response = authority_pb2.EnrollResponse(
            certificates=certificates,
            mesh=self._authority.mesh,
            root_certificates=self._authority.roots,
            authority_address=self._addresses.authority,
            service_address=self._addresses.service,
        )
        response.expire_time.FromDatetime(leaf.not_valid_after_utc)
        return response

    async def DescribeLogin(
        self, request: authority_pb2.DescribeLoginRequest, context: Context
    ) -> authority_pb2.DescribeLoginResponse:
        self._limit.knock(context.peer())
        return self._people().describe()

    async def ExchangeToken(
        self, request: authority_pb2.ExchangeTokenRequest, context: Context
    ) -> authority_pb2.ExchangeTokenResponse:
        self._knock(context, LOGIN)
        return await self._people().exchange(request, context)

    def _knock(self, context: Context, action: str) -> None:
        try:
            self._limit.knock(context.peer())
        except LimitExceeded as refused:
            # Whom it claims to be is not read: a flood shall cost little.
            kind = type(refused).__name__
            self._record.stranger(context, action, "", str(refused), allowed=False, kind=kind)
            raise

    def _people(self) -> Logins:
        if self._logins is None:
            raise Precondition(
                f"people do not log in at the authority of {self._authority.trust_domain}; "
                "give it the file `people`, or ask for `telltale credentials` where its key lies"
            )
        return self._logins

    def _enroll(self, request: authority_pb2.EnrollRequest) -> Redeemed:
        if len(request.join_token) > _LONGEST_JOIN_TOKEN:
            raise Unauthenticated("this is no join token; ask for one")
        public_key = requested_key(request.signing_request)
        return self._ledger.redeem(
            request.join_token,
            key_sha256(public_key),
            lambda profile: self._authority.issue(profile, public_key),
        )


class AuthorityService(authority_pb2_grpc.AuthorityServicer):
    """Renew, IssueToken and EndSession, for those whom this authority has certified; CreateJoinToken and
    Distrust, for operators; WatchDistrust, for everybody."""

    def __init__(
        self,
        authority: IssuingAuthority,
        sessions: Sessions,
        lineage: Lineage,
        invitations: Invitations,
        distrusting: Distrusting,
        record: Record,
    ) -> None:
        self._distrusting = distrusting
        self._authority = authority
        self._sessions = sessions
        self._lineage = lineage
        self._invitations = invitations
        self._record = record
        self._own = CertificateAuthenticator(authority.trust)

    async def Renew(
        self, request: authority_pb2.RenewRequest, context: Context
    ) -> authority_pb2.RenewResponse:
        present = self._present()
        with self._refusals(RENEW):
            await self._require_own(context)
            await self._note_use(present)
            certificates = await asyncio.to_thread(self._renew, request.signing_request, present)
        leaf = _log_issued("renewed", certificates, context.peer())
        self._record.known(RENEW, "its present certificate is of this authority", allowed=True)
        response = authority_pb2.RenewResponse(certificates=certificates)
        response.expire_time.FromDatetime(leaf.not_valid_after_utc)
        return response

    async def IssueToken(
        self, request: authority_pb2.IssueTokenRequest, context: Context
    ) -> authority_pb2.IssueTokenResponse:
        present = self._present()
        with self._refusals(ISSUE_TOKEN):
            await self._note_use(present)
            issued = await asyncio.to_thread(self._issue_token, present, list(request.audiences))
        audiences = ", ".join(sorted(set(request.audiences)))
        self._record.known(
            ISSUE_TOKEN,
            f"its certificate is of this trust domain; the token is for {audiences}",
            allowed=True,
        )
        response = authority_pb2.IssueTokenResponse(token=issued.text)
        response.expire_time.FromDatetime(issued.expires.astimezone(UTC))
        return response

    async def EndSession(
        self, request: authority_pb2.EndSessionRequest, context: Context
    ) -> authority_pb2.EndSessionResponse:
        present = self._present()
        with self._refusals(LOGOUT):
            if not is_person(profile_of(present).spiffe_id):
                raise Precondition(
                    f"{caller().peer} has not logged in; whoever joined ends by `telltale distrust`"
                )
            await asyncio.to_thread(self._end_session, present)
        self._record.known(LOGOUT, "the person has logged out", allowed=True)
        return authority_pb2.EndSessionResponse()

    async def CreateJoinToken(
        self, request: authority_pb2.CreateJoinTokenRequest, context: Context
    ) -> authority_pb2.CreateJoinTokenResponse:
        return await self._invitations.create(request, context)

    async def Distrust(
        self, request: authority_pb2.DistrustRequest, context: Context
    ) -> authority_pb2.DistrustResponse:
        return await self._distrusting.say(request, context)

    async def WatchDistrust(
        self, request: authority_pb2.WatchDistrustRequest, context: Context
    ) -> AsyncIterator[authority_pb2.WatchDistrustResponse]:
        async with aclosing(self._distrusting.watch()) as lists:
            async for each in lists:
                yield each

    @contextmanager
    def _refusals(self, action: str) -> Iterator[None]:
        """Records that the body refused the caller."""
        try:
            yield
        except Unauthenticated:
            # Of those whom nobody knows the server tells.
            raise
        except TelltaleError as refused:
            self._record.known(action, str(refused), allowed=False, kind=type(refused).__name__)
            raise

    async def _require_own(self, context: Context) -> None:
        """A certificate of another PKI gets tokens here when it is trusted. Its own PKI renews it."""
        try:
            await self._own.authenticate(context)
        except Unauthenticated as foreign:
            raise InvalidInput(
                f"the certificate of {caller().peer} is not of this authority; renew it where it comes from"
            ) from foreign

    async def _note_use(self, present: x509.Certificate) -> None:
        """Records that two holders are at work with one identity. Nobody is refused for it: which of them is
        the right one, only people can find out."""
        if self._has_one_holder(present) and await asyncio.to_thread(self._lineage.use, present):
            peer = str(caller().peer)
            self._record.known(
                USE_SUPERSEDED,
                "two certificates of this identity are used by turns: somebody has a copy of its key; "
                "distrust it, and set its host up anew",
                allowed=True,
                subject=peer,
            )
            _log.warning("two certificates of one identity are used by turns", spiffe_id=peer)

    def _has_one_holder(self, present: x509.Certificate) -> bool:
        """People and their tools use one identity in several programs at once. What another PKI issues, it
        may issue to many."""
        operators = domain_of(self._authority.trust_domain, self._authority.mesh) == OPERATORS
        return not operators and present.issuer == self._authority.issuing.subject

    def _present(self) -> x509.Certificate:
        """The caller's certificate, which has to be of this authority's own trust domain."""
        peer = caller().peer
        if peer.trust_domain != self._authority.trust_domain:
            raise Unauthenticated(
                f"this is the authority of {self._authority.trust_domain}; {peer} has to ask its own"
            )
        return x509.load_der_x509_certificate(caller().peer_certificate)

    def _renew(self, signing_request: bytes, present: x509.Certificate) -> tuple[bytes, ...]:
        # Name and purpose are those of the present certificate, whatever the request says.
        profile, public_key = profile_of(present), requested_key(signing_request)
        session = self._session(present)
        if session is None:
            certificates = self._authority.issue(profile, public_key)
        else:
            certificates = self._authority.issue(profile, public_key, session.ends)
            self._sessions.follow(session, certificates[0])
        if self._has_one_holder(present):
            self._lineage.follow(present, certificates[0])
        return certificates

    def _issue_token(self, present: x509.Certificate, audiences: list[str]) -> IssuedToken:
        der = present.public_bytes(Encoding.DER)
        session = self._session(present)
        return self._authority.issue_token(
            profile_of(present).spiffe_id,
            thumbprint(der),
            audiences,
            present.not_valid_after_utc,
            session.groups if session else (),
        )

    def _end_session(self, present: x509.Certificate) -> None:
        session = self._session(present)
        if session is not None:
            self._sessions.end(session)

    def _session(self, present: x509.Certificate) -> Session | None:
        """The session of a certificate. A person without one is nobody: it may have been ended here."""
        session = self._sessions.of(present.public_bytes(Encoding.DER))
        spiffe_id = profile_of(present).spiffe_id
        if session is None and is_person(spiffe_id):
            raise Unauthenticated(
                f"there is no session of {spiffe_id} here; log in again with `telltale login`"
            )
        return session


def _claimed(join_token: str) -> str:
    """Whom a refused token says it is for: unchecked, and of help to those who look for a stolen one."""
    if len(join_token) > _LONGEST_JOIN_TOKEN:
        return ""
    try:
        return str(JoinToken.parse(join_token).spiffe_id)
    except TelltaleError:
        return ""


def _log_issued(event: str, certificates: tuple[bytes, ...], peer: str) -> x509.Certificate:
    leaf = x509.load_der_x509_certificate(certificates[0])
    _log.info(
        event,
        spiffe_id=str(profile_of(leaf).spiffe_id),
        peer=peer,
        thumbprint=thumbprint(certificates[0]).hex(),
        seconds_left=round((leaf.not_valid_after_utc - datetime.now(UTC)).total_seconds()),
    )
    return leaf
