"""Bearer tokens: JWT, ES256, at most 15 minutes, bound to the certificate of the one who may use them."""

import base64
import hashlib
import hmac
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from telltale.errors import InvalidInput, Unauthenticated, Unproven
from telltale.identity.trust import Trust
from telltale.naming import SpiffeId, check_group

ALGORITHM = "ES256"
# Of what is signed with the same key, such as a list of distrust, only tokens have it.
_TYPE = "JWT"
LONGEST_LIFE = timedelta(minutes=15)
# Clocks of two machines may differ by this much before a fresh token looks like one of the future.
_CLOCK_SKEW = timedelta(minutes=1)
_REMEMBERED = 10_000
# A token names one subject, at most 16 audiences and 32 groups; anything longer is none of ours.
_LARGEST = 8 * 1024
MOST_GROUPS = 32
# What reading a text that is no token raises. JSON may be nested deeper than anybody reads.
UNREADABLE = (jwt.PyJWTError, ValueError, TypeError, RecursionError)
# What a claim raises that is not there, of another type, or a time outside of the calendar.
_NO_CLAIM = (LookupError, TypeError, ValueError, AttributeError, OverflowError, OSError)


@dataclass(frozen=True)
class Token:
    """What a verified token says."""

    subject: SpiffeId
    issued: datetime
    expires: datetime
    # Policy groups that the subject's authority says it belongs to.
    groups: frozenset[str] = frozenset()


def confirmation(thumbprint: bytes) -> str:
    """A certificate's SHA-256 as a token carries it in `cnf.x5t#S256` (RFC 8705)."""
    return base64.urlsafe_b64encode(thumbprint).rstrip(b"=").decode()


def audiences_of(token: str) -> frozenset[str]:
    """The trust domains that a token says it is for: whoever asks has verified it before."""
    try:
        named = jwt.decode(token, options={"verify_signature": False}).get("aud")
    except UNREADABLE:
        return frozenset()
    return frozenset([named] if isinstance(named, str) else named or ())


class TokenVerifier:
    """Verifies tokens for the services of one trust domain."""

    def __init__(self, trust: Trust, audience: str) -> None:
        self._trust = trust
        self._audience = audience
        self._believed = trust.bundle
        self._verified: OrderedDict[tuple[bytes, bytes | None], Token] = OrderedDict()

    def verify(self, token: str, thumbprint: bytes | None) -> Token:
        """Who the token speaks of. `thumbprint` is that of the certificate on the wire, and None only for a
        token whose binding a trusted forwarder has checked. Raises Unauthenticated with what to do."""
        key = (hashlib.sha256(token.encode("utf-8", "replace")).digest(), thumbprint)
        if self._believed is not self._trust.bundle:
            # A key that has gone vouches for nothing any more.
            self._believed = self._trust.bundle
            self._verified.clear()
        known = self._verified.get(key)
        if known is not None and known.expires.timestamp() > time.time():
            self._verified.move_to_end(key)
        else:
            known = self._verified[key] = self._verify(token, thumbprint)
            if len(self._verified) > _REMEMBERED:
                self._verified.popitem(last=False)
        # What was verified stays so; whether its subject is still believed is asked each time.
        self._trust.distrust.require(known.subject, known.issued)
        return known

    def _verify(self, token: str, thumbprint: bytes | None) -> Token:
        if len(token) > _LARGEST:
            raise Unproven(f"a token of {len(token)} characters is too long; fetch one from your authority")
        claims = self._signed_claims(token)
        try:
            subject = SpiffeId.parse(claims["sub"])
            issued, expires = (datetime.fromtimestamp(float(claims[name]), UTC) for name in ("iat", "exp"))
            bound_to = claims["cnf"]["x5t#S256"]
        except (InvalidInput, *_NO_CLAIM) as wrong:
            raise Unauthenticated("the token lacks sub, iat, exp or cnf.x5t#S256; fetch a new one") from wrong
        if subject.trust_domain != claims["iss"]:
            raise Unauthenticated(
                f"{claims['iss']} may not issue tokens for {subject}; ask its own authority"
            )
        if expires - issued > LONGEST_LIFE or issued > datetime.now(UTC) + _CLOCK_SKEW:
            raise Unauthenticated(
                "the token lives longer than 15 minutes or is of the future; fetch a new one"
            )
        # A confirmation is of ASCII; hmac takes no other text.
        if not (isinstance(bound_to, str) and bound_to.isascii()) or (
            thumbprint is not None and not hmac.compare_digest(bound_to, confirmation(thumbprint))
        ):
            raise Unauthenticated(
                f"the token of {subject} is bound to another certificate; fetch one with the one in use"
            )
        return Token(subject, issued, expires, _groups(claims))

    def _signed_claims(self, token: str) -> dict[str, Any]:
        """The claims of a token that its issuer signed for this audience and that has not expired."""
        try:
            header = jwt.get_unverified_header(token)
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
            if not isinstance(issuer, str):
                raise Unauthenticated("the token names no issuer; fetch one from your authority")
            key = self._trust.token_keys(issuer).get(str(header.get("kid")))
            if key is None:
                raise Unauthenticated(f"the token's key is not one of {issuer}; fetch a new one")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                # Never what the token's header says: it could say `none`, or HS256 with the public key.
                algorithms=[ALGORITHM],
                audience=self._audience,
                issuer=issuer,
                # `iat` is checked with the lifetime, with room for skewed clocks.
                options={"require": ["iss", "sub", "aud", "iat", "exp", "jti"], "verify_iat": False},
            )
            if header.get("typ") != _TYPE:
                raise Unauthenticated("this is signed, but no token; fetch one from your authority")
            return claims
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the token expired; fetch a new one from your authority") from None
        except jwt.InvalidAudienceError:
            raise Unauthenticated(
                f"the token is not meant for {self._audience}; ask your authority for one with that audience"
            ) from None
        except UNREADABLE as refused:
            raise Unproven(f"the token does not hold ({refused}); fetch a new one") from None


def _groups(claims: dict[str, Any]) -> frozenset[str]:
    groups = claims.get("groups", [])
    try:
        if not isinstance(groups, list) or len(groups) > MOST_GROUPS:
            raise ValueError
        return frozenset(check_group(group) for group in groups)
    except (InvalidInput, TypeError, ValueError) as wrong:
        raise Unauthenticated(
            f"the token's `groups` are no list of at most {MOST_GROUPS} group names; fetch a new one"
        ) from wrong
