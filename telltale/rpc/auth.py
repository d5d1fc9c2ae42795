"""Who calls: the certificate on the wire, the token bound to it, and for whom a forwarder speaks."""

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Protocol

import grpc
import grpc.aio
from cryptography import x509

from telltale.audit import place_of
from telltale.errors import Unauthenticated, Unproven
from telltale.identity.keys import thumbprint
from telltale.identity.tokens import TokenVerifier
from telltale.identity.trust import Trust, chain_der
from telltale.naming import SpiffeId

AUTHORIZATION = "authorization"
ON_BEHALF_OF = "telltale-on-behalf-of"
_BEARER = "bearer "

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Caller:
    """Who is on the other end of the running call."""

    # Whose rights count: the peer itself, or the one for whom a forwarder speaks.
    principal: SpiffeId
    # Who is on the wire.
    peer: SpiffeId
    # The principal's token; empty where none is asked for.
    token: str
    # A stream may not outlive this.
    expires: datetime
    # The peer's leaf in DER.
    peer_certificate: bytes
    # Policy groups of the principal, by its own authority's word.
    groups: frozenset[str] = frozenset()
    # IP address that the peer calls from.
    address: str = ""
    # Whether the peer may speak for others, so that many callers' calls come by it.
    forwarder: bool = False

    def __repr__(self) -> str:
        return f"Caller({self.principal} by {self.peer} until {self.expires:%H:%M:%S})"


_caller: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """The caller of the running call; raises Unauthenticated outside of one."""
    try:
        return _caller.get()
    except LookupError:
        raise Unauthenticated("this is no authenticated call") from None


def on_the_wire() -> tuple[str, str]:
    """The peer of the running call and its address, for a record of it; empty where nobody calls."""
    known = _caller.get(None)
    return (str(known.peer), known.address) if known is not None else ("", "")


def set_caller(known: Caller) -> None:
    """Makes it known to the handler of the running call, whose task has a context of its own."""
    _caller.set(known)


class CallAuthenticator(Protocol):
    """Says who calls or raises Unauthenticated."""

    async def authenticate(self, context: Context) -> Caller: ...


class CertificateAuthenticator:
    """Knows callers by their certificate alone. Only an authority does so: it is where tokens come from."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust

    async def authenticate(self, context: Context) -> Caller:
        certificate, peer = _peer(context, self._trust)
        expires = x509.load_der_x509_certificate(certificate).not_valid_after_utc
        return Caller(peer, peer, "", expires, certificate, address=place_of(context.peer()))


class Authenticator:
    """Knows callers by certificate and token, for the services of one trust domain."""

    def __init__(self, trust: Trust, audience: str, forwarders: frozenset[SpiffeId] = frozenset()) -> None:
        self._trust = trust
        self._forwarders = forwarders
        self._tokens = TokenVerifier(trust, audience)

    async def authenticate(self, context: Context) -> Caller:
        certificate, peer = _peer(context, self._trust)
        try:
            return self._known(context, certificate, peer)
        except Unauthenticated as refused:
            refused.peer = str(peer)
            raise

    def _known(self, context: Context, certificate: bytes, peer: SpiffeId) -> Caller:
        metadata = tuple(context.invocation_metadata() or ())
        bearer = _only(metadata, AUTHORIZATION)
        if bearer is None or not bearer.lower().startswith(_BEARER):
            raise Unauthenticated(
                f"{peer} sent no token; add the metadata `authorization: Bearer <token>` from your authority"
            )
        text = bearer[len(_BEARER) :].strip()
        token = self._tokens.verify(text, thumbprint(certificate))
        if token.subject != peer:
            raise Unauthenticated(
                f"the token is for {token.subject} and the certificate for {peer}; use your own"
            )
        address = place_of(context.peer())
        forwarder = peer in self._forwarders
        forwarded = _only(metadata, ON_BEHALF_OF)
        if forwarded is None:
            return Caller(peer, peer, text, token.expires, certificate, token.groups, address, forwarder)
        if not forwarder:
            raise Unauthenticated(f"{peer} may not speak for others; call without `{ON_BEHALF_OF}`")
        # The forwarder has checked on its own wire that this token belongs to the certificate of its caller.
        behalf = self._tokens.verify(forwarded.strip(), None)
        expires = min(token.expires, behalf.expires)
        return Caller(
            behalf.subject, peer, forwarded.strip(), expires, certificate, behalf.groups, address, forwarder
        )


def _peer(context: Context, trust: Trust) -> tuple[bytes, SpiffeId]:
    """The peer's leaf in DER and whose it is, at this moment: the handshake may be hours old."""
    seen = context.auth_context()
    if _first(seen.get("ssl_tls_version", ())) != b"TLSv1.3":
        raise Unauthenticated("this connection is not TLS 1.3; use a client that speaks it")
    leaf = _der(_first(seen.get("x509_pem_cert", ())))
    if not leaf:
        raise Unauthenticated("no client certificate; connect with the one of your identity")
    # OpenSSL's habit decides whether the chain repeats the leaf.
    issuers = tuple(der for der in _der(_first(seen.get("x509_pem_cert_chain", ()))) if der != leaf[0])
    try:
        return leaf[0], trust.identify_peer(leaf[0], issuers)
    except Unauthenticated as refused:
        refused.claimed = ", ".join(name.decode("ascii", "replace") for name in seen.get("peer_uri", ()))
        raise


# The same few peers call again and again.
_der = lru_cache(maxsize=4096)(chain_der)


def _first(values: Iterable[bytes]) -> bytes:
    return next(iter(values), b"")


def _only(metadata: tuple[tuple[str, str | bytes], ...], key: str) -> str | None:
    """The one value of a key; two could mean different things to two readers."""
    values = [value for name, value in metadata if name == key]
    if len(values) > 1:
        raise Unproven(f"the metadata `{key}` appears {len(values)} times; send it once")
    if not values:
        return None
    return values[0] if isinstance(values[0], str) else values[0].decode("ascii", "replace")
