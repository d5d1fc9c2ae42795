"""Whom a process believes: the root of the mesh, and the token keys of every trust domain."""

import asyncio
import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto

from telltale.errors import InvalidInput, Unauthenticated, Unproven
from telltale.identity.bundle import (
    JWKS_SUFFIX,
    ROOT_FILE,
    Bundle,
    Look,
    look,
    parse_jwks,
    parse_roots,
    pem_of,
)
from telltale.identity.credentials import spiffe_id_of
from telltale.identity.distrust import Distrust
from telltale.identity.keys import thumbprint
from telltale.naming import SpiffeId, domain_of

__all__ = ["JWKS_SUFFIX", "ROOT_FILE", "Trust", "chain_der", "parse_jwks"]

# Chains are short and few: one leaf and one issuer per source that is alive.
_REMEMBERED_CHAINS = 10_000
# Leaf, issuing authority, and one more for an authority that is being replaced.
_LONGEST_CHAIN = 3


@dataclass(frozen=True)
class _Proven:
    """A chain that held once holds throughout the time when all of its certificates are valid."""

    spiffe_id: SpiffeId
    not_before: datetime
    not_after: datetime
    # When the leaf was issued.
    issued: datetime


class Trust:
    """Whom a process believes, by its trust bundle. What a peer or a stream says about trust never enters it.

    A changed directory is taken up by `refresh`; any thread may ask meanwhile.
    """

    def __init__(
        self, mesh: str, root_pem: bytes, token_keys: Mapping[str, Mapping[str, jwt.PyJWK]] | None = None
    ) -> None:
        self.mesh = mesh
        self._bundle = Bundle(parse_roots(root_pem, ROOT_FILE), dict(token_keys or {}))
        self._directory: Path | None = None
        self._seen: Look = ()
        # What the authorities of the mesh say of identities; see hearing.py.
        self.distrust = Distrust()
        self._proven: OrderedDict[bytes, _Proven] = OrderedDict()
        self._lock = threading.Lock()
        # Each with the loop that it belongs to.
        self._listeners: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    @classmethod
    def load(cls, directory: Path, mesh: str) -> "Trust":
        """Reads `root.pem`, and `<trust domain>.jwks.json` and `.bundle.pem` of each. Blocks."""
        # Before it is read: what changes meanwhile is seen by the next look.
        seen = look(directory)
        bundle = Bundle.load(directory)
        trust = cls(mesh, pem_of(bundle.roots))
        trust._bundle, trust._directory, trust._seen = bundle, directory, seen
        return trust

    def refresh(self) -> bool:
        """Takes up a directory that has changed; whether it had. Raises ConfigurationError when it is
        broken, once for each change, and goes on with what it has. Blocks."""
        if self._directory is None:
            return False
        seen = look(self._directory)
        if seen == self._seen:
            return False
        self._seen = seen
        bundle = Bundle.load(self._directory)
        with self._lock:
            self._bundle = bundle
            # What led to a root that has gone is believed no more.
            self._proven.clear()
        for listener, loop in tuple(self._listeners.items()):
            loop.call_soon_threadsafe(listener.set)
        return True

    @contextlib.contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever somebody may no longer be believed: the bundle has changed, or a word
        of distrust. Whoever waits for it clears it."""
        with self.distrust.listening() as listener:
            self._listeners[listener] = asyncio.get_running_loop()
            try:
                yield listener
            finally:
                del self._listeners[listener]

    @property
    def bundle(self) -> Bundle:
        """The bundle of the moment: another object as soon as it has changed."""
        return self._bundle

    @property
    def root_pem(self) -> bytes:
        """The roots of the mesh."""
        return pem_of(self._bundle.roots)

    def roots_for(self, server_name: str) -> bytes:
        """The roots, in PEM, that a server of this name may lead to: those that speak for its trust domain.

        Of a trust domain's own roots a handshake asks nothing but the name. Believed for every server, they
        could pass themselves off as any.
        """
        return pem_of(self._bundle.roots_of(server_name.partition(".")[2]))

    @property
    def all_roots_pem(self) -> bytes:
        """For a server's handshake, which knows no trust domains. `identify` decides afterwards."""
        return pem_of(self._bundle.all_roots)

    @property
    def trust_domains(self) -> frozenset[str]:
        """The trust domains whose tokens can be checked here."""
        return frozenset(self._bundle.token_keys)

    def token_keys(self, trust_domain: str) -> Mapping[str, jwt.PyJWK]:
        """The public token keys of a trust domain by key id; raises Unauthenticated when it is unknown."""
        try:
            return self._bundle.token_keys[trust_domain]
        except KeyError:
            raise Unproven(
                f"the trust domain {trust_domain[:200]!r} is not in this process's trust bundle; "
                f"add its {JWKS_SUFFIX} file"
            ) from None

    def identify(self, leaf_der: bytes, intermediates: Sequence[bytes], at: datetime) -> SpiffeId:
        """Whose certificate this is, given that its chain was valid at that time.

        Raises Unauthenticated when the chain leads to no root that may speak for its trust domain,
        breaks the name constraints of its issuer, was not valid at `at`, or names not exactly one SPIFFE ID.
        Whether the identity is distrusted is another question: see `identify_peer`.
        """
        return self._proven_at(leaf_der, intermediates, at).spiffe_id

    def identify_peer(self, leaf_der: bytes, intermediates: Sequence[bytes]) -> SpiffeId:
        """Whose certificate this is, now; raises Unauthenticated as well when its owner is distrusted."""
        proven = self._proven_at(leaf_der, intermediates, datetime.now(UTC))
        self.distrust.require(proven.spiffe_id, proven.issued)
        return proven.spiffe_id

    def _proven_at(self, leaf_der: bytes, intermediates: Sequence[bytes], at: datetime) -> _Proven:
        identity = thumbprint(b"".join(thumbprint(der) for der in (leaf_der, *intermediates)))
        with self._lock:
            proven = self._proven.get(identity)
            if proven is not None and proven.not_before <= at <= proven.not_after:
                self._proven.move_to_end(identity)
                return proven
        bundle = self._bundle
        proven = self._prove(bundle, leaf_der, intermediates, at)
        with self._lock:
            if self._bundle is bundle:
                self._proven[identity] = proven
            if len(self._proven) > _REMEMBERED_CHAINS:
                self._proven.popitem(last=False)
        return proven

    def root_of(self, certificate: x509.Certificate) -> x509.Certificate | None:
        """The root that has signed this certificate, at whatever time and whomever it may speak for."""
        for root in self._bundle.all_roots:
            try:
                certificate.verify_directly_issued_by(root)
            except (ValueError, TypeError, InvalidSignature):
                continue
            return root
        return None

    def _prove(
        self, bundle: Bundle, leaf_der: bytes, intermediates: Sequence[bytes], at: datetime
    ) -> _Proven:
        if len(intermediates) >= _LONGEST_CHAIN:
            raise Unauthenticated(
                f"a chain of {len(intermediates) + 1} certificates is too long; enrol again"
            )
        try:
            leaf = x509.load_der_x509_certificate(leaf_der)
            others = [x509.load_der_x509_certificate(der) for der in intermediates]
        except (ValueError, x509.InvalidVersion) as broken:
            raise Unauthenticated("the certificate cannot be read; enrol for a new one") from broken
        spiffe_id = spiffe_id_of(leaf)
        try:
            domain_of(spiffe_id.trust_domain, self.mesh)
        except InvalidInput as foreign:
            raise Unauthenticated(str(foreign)) from foreign
        try:
            # OpenSSL checks URI name constraints, and at any time; cryptography's own verifier does neither.
            store = crypto.X509Store()
            # Only these: a root that a trust domain brings along has no name constraints of ours.
            for root in bundle.roots_of(spiffe_id.trust_domain):
                store.add_cert(crypto.X509.from_cryptography(root))
            store.set_flags(crypto.X509StoreFlags.X509_STRICT)
            store.set_time(at)
            context = crypto.X509StoreContext(
                store,
                crypto.X509.from_cryptography(leaf),
                [crypto.X509.from_cryptography(other) for other in others],
            )
            chain = [certificate.to_cryptography() for certificate in context.get_verified_chain()]
        except crypto.X509StoreContextError as refused:
            raise Unauthenticated(
                f"the certificate does not hold: {refused}; enrol for a new one"
            ) from refused
        except (ValueError, crypto.Error) as broken:
            raise Unauthenticated("the certificate cannot be read; enrol for a new one") from broken
        if _is_authority(leaf):
            raise Unauthenticated("an authority's certificate is nobody's identity; use a leaf")
        return _Proven(
            spiffe_id,
            max(certificate.not_valid_before_utc for certificate in chain),
            min(certificate.not_valid_after_utc for certificate in chain),
            leaf.not_valid_before_utc,
        )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def chain_der(pem: bytes) -> tuple[bytes, ...]:
    """The certificates of a PEM text, in DER, in their order; empty when there is none."""
    try:
        return tuple(
            certificate.public_bytes(Encoding.DER) for certificate in x509.load_pem_x509_certificates(pem)
        )
    except (ValueError, x509.InvalidVersion):
        return ()
