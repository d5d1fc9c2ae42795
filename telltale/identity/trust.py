"""Whom a process believes: the root of the mesh, and the token keys of every trust domain."""

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto

from telltale.errors import ConfigurationError, InvalidInput, Unauthenticated
from telltale.identity.credentials import spiffe_id_of
from telltale.identity.distrust import Distrust
from telltale.identity.keys import thumbprint
from telltale.naming import SpiffeId, domain_of

ROOT_FILE = "root.pem"
JWKS_SUFFIX = ".jwks.json"
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
    """The trust bundle of a process. What a peer or a stream says about trust never enters it."""

    def __init__(
        self, mesh: str, root_pem: bytes, token_keys: Mapping[str, Mapping[str, jwt.PyJWK]] | None = None
    ) -> None:
        self.mesh = mesh
        self.root_pem = root_pem
        # What the authorities of the mesh said since; see `following`.
        self.distrust = Distrust()
        self._token_keys = dict(token_keys or {})
        try:
            self._roots = x509.load_pem_x509_certificates(root_pem)
        except ValueError as broken:
            raise ConfigurationError("the trust bundle's root.pem holds no readable certificate") from broken
        self._proven: OrderedDict[bytes, _Proven] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def load(cls, directory: Path, mesh: str) -> "Trust":
        """Reads `root.pem` and one `<trust domain>.jwks.json` each. Blocks."""
        try:
            root_pem = (directory / ROOT_FILE).read_bytes()
            keys = {
                path.name.removesuffix(JWKS_SUFFIX): parse_jwks(path.read_bytes(), path.name)
                for path in sorted(directory.glob("*" + JWKS_SUFFIX))
            }
        except OSError as unreadable:
            raise ConfigurationError(
                f"cannot read the trust bundle in {directory}: {unreadable.strerror}; "
                "copy the directory `trust` that `certs init` made"
            ) from unreadable
        return cls(mesh, root_pem, keys)

    @property
    def trust_domains(self) -> frozenset[str]:
        """The trust domains whose tokens can be checked here."""
        return frozenset(self._token_keys)

    def token_keys(self, trust_domain: str) -> Mapping[str, jwt.PyJWK]:
        """The public token keys of a trust domain by key id; raises Unauthenticated when it is unknown."""
        try:
            return self._token_keys[trust_domain]
        except KeyError:
            raise Unauthenticated(
                f"the trust domain {trust_domain[:200]!r} is not in this process's trust bundle; "
                f"add its {JWKS_SUFFIX} file and start again"
            ) from None

    def identify(self, leaf_der: bytes, intermediates: Sequence[bytes], at: datetime) -> SpiffeId:
        """Whose certificate this is, given that its chain was valid at that time.

        Raises Unauthenticated when the chain does not lead to the root, breaks the name
        constraints of its issuer, was not valid at `at`, or names not exactly one SPIFFE ID.
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
        proven = self._prove(leaf_der, intermediates, at)
        with self._lock:
            self._proven[identity] = proven
            if len(self._proven) > _REMEMBERED_CHAINS:
                self._proven.popitem(last=False)
        return proven

    def vouches_for(self, authority: x509.Certificate) -> bool:
        """Whether a root has signed this certificate of an authority, at whatever time."""
        for root in self._roots:
            try:
                authority.verify_directly_issued_by(root)
            except (ValueError, TypeError, InvalidSignature):
                continue
            return True
        return False

    def _prove(self, leaf_der: bytes, intermediates: Sequence[bytes], at: datetime) -> _Proven:
        if len(intermediates) >= _LONGEST_CHAIN:
            raise Unauthenticated(
                f"a chain of {len(intermediates) + 1} certificates is too long; enrol again"
            )
        try:
            leaf = x509.load_der_x509_certificate(leaf_der)
            others = [x509.load_der_x509_certificate(der) for der in intermediates]
            # OpenSSL checks URI name constraints, and at any time; cryptography's own verifier does neither.
            store = crypto.X509Store()
            for root in self._roots:
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
        spiffe_id = spiffe_id_of(leaf)
        try:
            domain_of(spiffe_id.trust_domain, self.mesh)
        except InvalidInput as foreign:
            raise Unauthenticated(str(foreign)) from foreign
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


def parse_jwks(data: bytes, origin: str) -> dict[str, jwt.PyJWK]:
    """Reads the public token keys of a trust domain, by key id. Only ES256 keys are taken."""
    try:
        entries = json.loads(data)["keys"]
        keys = {entry["kid"]: jwt.PyJWK(entry, algorithm="ES256") for entry in entries}
        if any(entry.get("kty") != "EC" or entry.get("crv") != "P-256" or "d" in entry for entry in entries):
            raise ValueError("not a public P-256 key")
    except (ValueError, KeyError, TypeError, jwt.PyJWTError) as broken:
        raise ConfigurationError(f"{origin} holds no readable JWK set of public P-256 keys") from broken
    return keys


def chain_der(pem: bytes) -> tuple[bytes, ...]:
    """The certificates of a PEM text, in DER, in their order; empty when there is none."""
    try:
        return tuple(
            certificate.public_bytes(Encoding.DER) for certificate in x509.load_pem_x509_certificates(pem)
        )
    except ValueError:
        return ()
