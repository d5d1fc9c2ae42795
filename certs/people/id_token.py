"""What an ID token says, once all of it holds: OpenID Connect Core, section 3.1.3.7, and the nonce."""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from certs.people.keys import ProviderKeys
from certs.people.settings import ProviderSettings
from telltale.errors import Unauthenticated, Unproven
from telltale.identity.tokens import UNREADABLE

# Clocks of two machines may differ by this much.
_SKEW = timedelta(minutes=1)
# Providers put hundreds of groups into one token; more is no login.
LONGEST = 32 * 1024
_REQUIRED = ["iss", "sub", "aud", "exp", "iat", "nonce"]


@dataclass(frozen=True)
class Login:
    """Somebody who has logged in at the provider a moment ago."""

    subject: str
    name: str
    # As the provider calls them.
    groups: frozenset[str]
    # What was signed, by which the same ID token is known again however it is written.
    sha256: bytes
    # After this the ID token is too old to be shown once more.
    until: datetime


class IdTokenVerifier:
    """Verifies the ID tokens of one provider for one client."""

    def __init__(self, settings: ProviderSettings, keys: ProviderKeys) -> None:
        self._settings = settings
        self._keys = keys

    async def verify(self, token: str, nonce: str) -> Login:
        """Who has logged in, with a login that was asked for with this nonce. Raises Unauthenticated."""
        if len(token) > LONGEST:
            raise Unproven(f"an ID token of {len(token)} characters is too long; log in again")
        try:
            claims = await self._signed_claims(token)
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the ID token expired; log in again") from None
        except jwt.InvalidAudienceError:
            raise Unauthenticated(
                f"the ID token is for another client than {self._settings.client_id}; log in again"
            ) from None
        except UNREADABLE as refused:
            raise Unproven(f"the ID token does not hold ({refused}); log in again") from None
        issued = self._check(claims, nonce)
        return Login(
            subject=claims["sub"],
            name=self._name(claims),
            groups=self._groups(claims),
            # Not the signature: some have more than one form for the same content.
            sha256=hashlib.sha256(token.rpartition(".")[0].encode()).digest(),
            until=issued + timedelta(seconds=self._settings.longest_age_seconds) + 2 * _SKEW,
        )

    async def _signed_claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        unverified = jwt.decode(token, options={"verify_signature": False})
        # Before any key is looked for: a token of somebody else's is no reason to ask the provider.
        if unverified.get("iss") != self._settings.issuer:
            raise Unauthenticated(f"the ID token is not of {self._settings.issuer}; log in there")
        if header.get("alg") not in self._settings.algorithms:
            raise Unproven(
                f"the ID token is signed with {str(header.get('alg'))[:20]!r}; this mesh takes "
                f"{', '.join(self._settings.algorithms)}"
            )
        key_id = header.get("kid")
        key = await self._keys.key(None if key_id is None else str(key_id))
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            # What the key is for, never what the token's header says alone.
            algorithms=[one for one in self._settings.algorithms if one in key.algorithms],
            audience=self._settings.client_id,
            issuer=self._settings.issuer,
            leeway=_SKEW,
            # `iat` is checked with the age.
            options={"require": _REQUIRED, "verify_iat": False},
        )
        return claims

    def _check(self, claims: dict[str, Any], nonce: str) -> datetime:
        """What signature, issuer, audience and expiry do not say; returns when the token was issued."""
        audience, party = claims["aud"], claims.get("azp")
        if party is None and isinstance(audience, list) and len(audience) > 1:
            raise Unauthenticated("the ID token is for several clients and names no `azp`; log in again")
        if party is not None and party != self._settings.client_id:
            raise Unauthenticated(
                f"the ID token was issued to another client than {self._settings.client_id}; log in again"
            )
        if not isinstance(claims["sub"], str) or not _is_text(claims["sub"]):
            raise Unauthenticated("the ID token names no subject; log in again")
        try:
            issued = datetime.fromtimestamp(float(claims["iat"]), UTC)
        except (TypeError, ValueError, OverflowError, OSError):
            raise Unauthenticated("the ID token does not say when it was issued; log in again") from None
        age = datetime.now(UTC) - issued
        if not -_SKEW <= age <= timedelta(seconds=self._settings.longest_age_seconds) + _SKEW:
            raise Unauthenticated(
                f"the ID token was issued at {issued:%Y-%m-%d %H:%M:%S} UTC, too long ago or in the future; "
                "log in again, and compare the clocks"
            )
        bound = str(claims["nonce"]).encode("utf-8", "replace")
        if not hmac.compare_digest(bound, nonce.encode()):
            raise Unauthenticated(
                "the ID token belongs to another device's key; log in from this one with `telltale login`"
            )
        return issued

    def _name(self, claims: dict[str, Any]) -> str:
        claim = self._settings.name_claim
        name = claims.get(claim)
        if not isinstance(name, str):
            raise Unauthenticated(
                f"the ID token has no claim `{claim}`; let the provider send it to this client"
            )
        # Anybody may type an address; only a verified one is theirs.
        if claim == "email" and claims.get("email_verified") is not True:
            raise Unauthenticated("the provider has not verified this person's address; let it do so first")
        return name

    def _groups(self, claims: dict[str, Any]) -> frozenset[str]:
        if self._settings.groups_claim is None:
            return frozenset()
        groups = claims.get(self._settings.groups_claim, [])
        if isinstance(groups, str):
            groups = [groups]
        if not isinstance(groups, list):
            raise Unauthenticated(
                f"the ID token's claim `{self._settings.groups_claim}` is no list; mend the provider"
            )
        return frozenset(group for group in groups if isinstance(group, str))


def _is_text(value: str) -> bool:
    """JSON can say what UTF-8 cannot, and no file keeps that."""
    try:
        return bool(value.encode())
    except UnicodeEncodeError:
        return False
