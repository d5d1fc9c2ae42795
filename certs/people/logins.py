"""Logins of people at one authority: an ID token becomes a session, and what was decided is recorded."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

import jwt
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certs.addresses import Addresses
from certs.issuing import IssuingAuthority, requested_key
from certs.people.id_token import LONGEST, IdTokenVerifier
from certs.people.keys import ProviderKeys
from certs.people.names import path_name
from certs.people.record import PeopleRecord, Wanted
from certs.people.settings import PeopleSettings
from certs.profiles import Profile, person
from certs.record import LOGIN, Record
from certs.sessions import Session, Sessions
from telltale.api.mesh.v1 import authority_pb2
from telltale.errors import InvalidInput, TelltaleError, Unauthenticated, Unproven
from telltale.identity.credentials import spiffe_id_of
from telltale.identity.keys import key_sha256, thumbprint
from telltale.identity.person import ACCESS_TOKEN, GRANT_TYPE, ID_TOKEN, JWT, nonce_of
from telltale.identity.tokens import UNREADABLE
from telltale.identity.trust import Trust
from telltale.rpc.auth import Context

_LONGEST_CLAIM = 200

_log = structlog.get_logger("certs")


class Groups(Protocol):
    """Knows people's policy groups by their names at the provider."""

    async def groups(self, name: str) -> frozenset[str]: ...


class Logins:
    """Begins the sessions of people."""

    def __init__(
        self,
        settings: PeopleSettings,
        authority: IssuingAuthority,
        record: PeopleRecord,
        sessions: Sessions,
        directory: Groups | None,
        trust: Trust,
        addresses: Addresses,
        decisions: Record,
    ) -> None:
        self._settings = settings
        self._authority = authority
        self._record = record
        self._sessions = sessions
        self._directory = directory
        self._trust = trust
        self._addresses = addresses
        self._decisions = decisions
        self._verifier = IdTokenVerifier(settings.provider, ProviderKeys.of(settings.provider))

    def describe(self) -> authority_pb2.DescribeLoginResponse:
        """What a person's machine needs to know to log in."""
        provider = self._settings.provider
        return authority_pb2.DescribeLoginResponse(
            issuer=provider.issuer, client_id=provider.client_id, scopes=provider.scopes
        )

    async def exchange(
        self, request: authority_pb2.ExchangeTokenRequest, context: Context
    ) -> authority_pb2.ExchangeTokenResponse:
        """A session for the person of the ID token, on the device whose key signed the request."""
        try:
            _check(request)
            public_key = await asyncio.to_thread(requested_key, request.signing_request)
            leaf, issuer = await self._certificates(request.subject_token, public_key)
            session = await asyncio.to_thread(self._session, leaf)
            known = x509.load_der_x509_certificate(leaf)
            audience = list(request.audience) or sorted(self._trust.trust_domains)
            response = await asyncio.to_thread(self._answer, known, session, issuer, audience)
        except TelltaleError as refused:
            claimed = _claimed(request.subject_token)
            _log.warning("login refused", claimed=claimed, peer=context.peer(), reason=str(refused))
            # Our own words stand for themselves: that a token was used twice shall not hide behind a guess.
            own = isinstance(refused, Unauthenticated) and not isinstance(refused, Unproven)
            kind = "" if own else type(refused).__name__
            self._decisions.stranger(context, LOGIN, claimed, str(refused), allowed=False, kind=kind)
            raise
        reason = f"logged in at {self._settings.provider.issuer}; groups {', '.join(session.groups)}"
        who = str(spiffe_id_of(known))
        _log.info(
            "logged in", spiffe_id=who, peer=context.peer(), groups=session.groups, ends=str(session.ends)
        )
        self._decisions.stranger(context, LOGIN, who, reason, allowed=True)
        return response

    async def _certificates(self, id_token: str, public_key: ec.EllipticCurvePublicKey) -> tuple[bytes, ...]:
        login = await self._verifier.verify(id_token, nonce_of(public_key))
        name = path_name(login.name)
        table = self._settings.provider.groups
        groups = {table[group] for group in login.groups if group in table}
        if self._directory is not None:
            groups |= await self._directory.groups(login.name)
        if not groups:
            # Whoever has an account at the provider is not for that reason one of the mesh.
            raise Unauthenticated(
                f"{login.name} is in no group that this mesh knows; ask its operators for one"
            )
        ends = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=self._settings.session_seconds)
        profile = Profile(person(self._authority.trust_domain, name))
        return await asyncio.to_thread(
            self._record.exchange,
            login,
            self._settings.provider.issuer,
            key_sha256(public_key),
            Wanted(name, groups, ends),
            lambda: self._authority.issue(profile, public_key, ends),
        )

    def _session(self, leaf: bytes) -> Session:
        """The session of a certificate: that of the first answer, where this one repeats it."""
        session = self._sessions.of(leaf)
        if session is None or session.ends is None:
            raise Unauthenticated("the session of this ID token has ended; log in again")
        return session

    def _answer(
        self, leaf: x509.Certificate, session: Session, issuer: bytes, audience: Sequence[str]
    ) -> authority_pb2.ExchangeTokenResponse:
        der = leaf.public_bytes(Encoding.DER)
        issued = self._authority.issue_token(
            spiffe_id_of(leaf), thumbprint(der), audience, leaf.not_valid_after_utc, session.groups
        )
        response = authority_pb2.ExchangeTokenResponse(
            access_token=issued.text,
            issued_token_type=ACCESS_TOKEN,
            token_type="Bearer",
            certificates=(der, issuer),
            groups=session.groups,
            mesh=self._authority.mesh,
            trust_domains=sorted(self._trust.trust_domains),
            authority_address=self._addresses.authority,
            gateway_address=self._addresses.gateway,
        )
        response.expire_time.FromDatetime(issued.expires.astimezone(UTC))
        response.session_expire_time.FromDatetime(session.ends or leaf.not_valid_after_utc)
        return response


def _check(request: authority_pb2.ExchangeTokenRequest) -> None:
    """What RFC 8693 lets a client ask for and this authority does not do is refused, not overlooked."""
    if request.grant_type != GRANT_TYPE:
        raise InvalidInput(f"grant_type must be {GRANT_TYPE}, got {request.grant_type[:_LONGEST_CLAIM]!r}")
    if request.subject_token_type not in (ID_TOKEN, JWT):
        raise InvalidInput(
            f"subject_token_type must be {ID_TOKEN}, got {request.subject_token_type[:_LONGEST_CLAIM]!r}"
        )
    if request.requested_token_type not in ("", ACCESS_TOKEN):
        raise InvalidInput(
            f"requested_token_type must be {ACCESS_TOKEN}, got "
            f"{request.requested_token_type[:_LONGEST_CLAIM]!r}"
        )


def _claimed(id_token: str) -> str:
    """Whom a refused ID token says it is of: unchecked, and of help to those who look for a stolen one."""
    if len(id_token) > LONGEST:
        return ""
    try:
        claims = jwt.decode(id_token, options={"verify_signature": False})
    except UNREADABLE:
        return ""
    named = [str(claims[name]) for name in ("iss", "sub") if name in claims]
    return " ".join(named)[:_LONGEST_CLAIM]
