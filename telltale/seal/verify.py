"""Verifies sealed batches against the verifier's own trust bundle, never against what a stream says.

A batch holds when its signer's chain was valid at the sealed time, the signer's one SPIFFE ID is the
batch's source, the signature and the payload's digest fit, and the source is not distrusted for that time.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import DecodeError

from telltale.api.mesh.v1.batch_pb2 import Header, Origin
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.errors import BatchRefused, InvalidInput, Unauthenticated
from telltale.identity.trust import Trust
from telltale.naming import SpiffeId, domain_of, owner_of
from telltale.seal.parts import Batch
from telltale.seal.sealing import (
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_RECORDS,
    SIGNATURE_CONTEXT,
    sha256,
)

# How far a source's clock may run ahead.
MAX_FUTURE = timedelta(minutes=5)
# Certificates that a verifier remembers: leaves of a large fleet over a few renewals.
_MAX_CERTIFICATES = 50_000
_MAX_CERTIFICATE_BYTES = 8 << 10
# Authorities between a leaf and its root.
_MAX_ISSUERS = 2
# Authorities that one root vouches for: one a domain, or those of somebody else's PKI.
_MAX_AUTHORITIES = 1_000
# Generations of one issuing authority that the batches of a long history name.
_MAX_GENERATIONS = 16
# Sources that speak of devices, accounts or the past, and never of themselves.
_OBSERVERS = ("/receiver/", "/reader/", "/replay/")
# Declarations of one header: a reader's work on it stays small.
MAX_HOLES = 1_000
MAX_LOSSES = 1_000


@dataclass(frozen=True)
class _Signer:
    """A leaf whose chain was found valid, and from when to when it stays so. certificates: leaf first."""

    spiffe_id: SpiffeId
    key: ec.EllipticCurvePublicKey
    certificates: tuple[bytes, ...]
    not_before: datetime
    not_after: datetime
    # When the leaf was issued.
    issued: datetime


@dataclass(frozen=True)
class _Path:
    """From a certificate, which is not in it, to a root, of which it holds the SHA-256."""

    issuers: tuple[x509.Certificate, ...]
    root: bytes


def open_header(batch: Batch) -> Header:
    """Parses a header and checks everything that needs no key; raises BatchRefused when it is malformed."""
    if len(batch.header) > MAX_HEADER_BYTES:
        raise _malformed(f"the header has {len(batch.header)} bytes; at most {MAX_HEADER_BYTES} are taken")
    if len(batch.payload) > MAX_PAYLOAD_BYTES:
        raise BatchRefused(
            RefusalReason.REFUSAL_REASON_TOO_LARGE,
            f"the payload has {len(batch.payload)} bytes; at most {MAX_PAYLOAD_BYTES} are taken",
        )
    try:
        header = Header.FromString(batch.header)
        SpiffeId.parse(header.source)
        owner_of(header.product)
    except (DecodeError, InvalidInput) as wrong:
        raise _malformed(f"the header does not parse: {wrong}") from None
    if header.record_count > MAX_RECORDS:
        raise BatchRefused(
            RefusalReason.REFUSAL_REASON_TOO_LARGE,
            f"the batch has {header.record_count} records; at most {MAX_RECORDS} are taken",
        )
    if not header.epoch or not header.sequence:
        raise _malformed("epoch and sequence start at 1")
    # SQLite and every consumer's integers are signed.
    if max(header.epoch, header.sequence) >= 1 << 63:
        raise _malformed("epoch and sequence stay below 2^63")
    for name in ("payload_sha256", "schema_sha256", "signer_sha256"):
        if len(getattr(header, name)) != 32:
            raise _malformed(f"{name} is no SHA-256")
    if len(header.previous_header_sha256) not in (0, 32):
        raise _malformed("previous_header_sha256 is no SHA-256")
    if not header.origin:
        raise _malformed("origin is missing")
    if len(header.holes) > MAX_HOLES or len(header.losses) > MAX_LOSSES:
        raise _malformed(f"a header declares at most {MAX_HOLES} holes and {MAX_LOSSES} losses")
    for name in ("first_event_time", "last_event_time"):
        if header.HasField(name):
            _time(header, name)
    _sealed_time(header)
    return header


class Verifier:
    """Verifies batches of any number of streams. Not thread-safe: one at a time."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._believed = trust.bundle
        self._certificates: OrderedDict[bytes, bytes] = OrderedDict()
        # By the root that they lead to, so that nobody whom one root vouches for crowds out those of another;
        # then by subject, whose generations share it.
        self._authorities: dict[bytes, OrderedDict[bytes, list[x509.Certificate]]] = {}
        self._signers: OrderedDict[bytes, _Signer] = OrderedDict()

    def learn(self, certificates: Iterable[bytes]) -> None:
        """Remembers certificates in DER that batches may name; leaf and issuer come together.

        Only what leads to a root of the verifier's own is remembered, so that nobody who can send
        certificates crowds out those of others.
        """
        leaves: list[tuple[bytes, x509.Certificate]] = []
        authorities: list[tuple[bytes, x509.Certificate]] = []
        for der in certificates:
            if len(der) > _MAX_CERTIFICATE_BYTES or sha256(der) in self._certificates:
                continue
            certificate = _readable(der)
            if certificate is None:
                continue
            (authorities if _is_authority(certificate) else leaves).append((der, certificate))
        # A certificate comes before its issuer: from the end each leads to one that is known.
        for der, authority in reversed(authorities):
            path = self._path(authority)
            if path is not None:
                known = self._authorities.setdefault(path.root, OrderedDict())
                generations = known.setdefault(authority.subject.public_bytes(), [])
                generations.append(authority)
                del generations[:-_MAX_GENERATIONS]
                while len(known) > _MAX_AUTHORITIES:
                    known.popitem(last=False)
                self._remember(der)
        for der, leaf in leaves:
            if self._path(leaf) is not None:
                self._remember(der)

    def _remember(self, der: bytes) -> None:
        self._certificates[sha256(der)] = der
        while len(self._certificates) > _MAX_CERTIFICATES:
            self._certificates.popitem(last=False)

    def verify(self, batch: Batch, now: datetime, header: Header | None = None) -> Header:
        """The header of a batch that holds; raises BatchRefused with the reason when it does not.

        header: what `open_header` made of this very batch, if it has been opened.
        """
        if header is None:
            header = open_header(batch)
        sealed_time = _sealed_time(header)
        if sealed_time > now + MAX_FUTURE:
            raise BatchRefused(
                RefusalReason.REFUSAL_REASON_FUTURE,
                f"sealed {sealed_time - now} ahead of this clock; set the clock of {header.source}",
                final=False,
            )
        signer = self._signer(header.signer_sha256, sealed_time)
        if str(signer.spiffe_id) != header.source:
            raise BatchRefused(
                RefusalReason.REFUSAL_REASON_FOREIGN_SOURCE,
                f"signed by {signer.spiffe_id} in the name of {header.source}",
            )
        try:
            signer.key.verify(batch.signature, SIGNATURE_CONTEXT + batch.header, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise _signature("the signature does not fit the header") from None
        if sha256(batch.payload) != header.payload_sha256:
            raise _signature("the payload is not the one that was signed")
        # Last: that a batch is distrusted says that it holds in every other way.
        word = self._trust.distrust.at(signer.spiffe_id, sealed_time, signer.issued)
        if word is not None:
            raise BatchRefused(RefusalReason.REFUSAL_REASON_DISTRUSTED, str(word))
        return header

    def certificates_of(self, header: Header) -> tuple[bytes, ...]:
        """The leaf and the issuer, in DER, of the signer of a batch that was verified just before."""
        signer = self._signers.get(header.signer_sha256)
        return signer.certificates if signer is not None else ()

    def _signer(self, thumbprint: bytes, at: datetime) -> _Signer:
        if self._believed is not self._trust.bundle:
            # What led to a root that has gone is believed no more.
            self._believed = self._trust.bundle
            self._signers.clear()
        known = self._signers.get(thumbprint)
        if known is not None and known.not_before <= at <= known.not_after:
            self._signers.move_to_end(thumbprint)
            return known
        der = self._certificates.get(thumbprint)
        if der is None:
            raise _signature(f"the signer's certificate {thumbprint.hex()[:16]} did not come with the batch")
        try:
            leaf = x509.load_der_x509_certificate(der)
            path = self._path(leaf)
            issuers = path.issuers if path is not None else ()
            encoded = [issuer.public_bytes(Encoding.DER) for issuer in issuers]
            spiffe_id = self._trust.identify(der, encoded, at)
        except (Unauthenticated, InvalidInput, ValueError) as wrong:
            raise _signature(f"the signer's certificate does not hold at the sealed time: {wrong}") from None
        key = leaf.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise _signature("the signer's key is not of P-256")
        chain = [leaf, *issuers]
        signer = _Signer(
            spiffe_id,
            key,
            (der, *encoded),
            max(certificate.not_valid_before_utc for certificate in chain),
            min(certificate.not_valid_after_utc for certificate in chain),
            leaf.not_valid_before_utc,
        )
        self._signers[thumbprint] = signer
        while len(self._signers) > _MAX_CERTIFICATES:
            self._signers.popitem(last=False)
        return signer

    def _path(self, certificate: x509.Certificate, most: int = _MAX_ISSUERS) -> _Path | None:
        """The generations of authorities between a certificate and a root; None when it leads to none."""
        issuer = certificate.issuer.public_bytes()
        if most:
            for authorities in self._authorities.values():
                for authority in reversed(authorities.get(issuer, ())):
                    above = self._path(authority, most - 1) if _signed(certificate, authority) else None
                    if above is not None:
                        return _Path((authority, *above.issuers), above.root)
        root = self._trust.root_of(certificate)
        return _Path((), root.fingerprint(hashes.SHA256())) if root is not None else None


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _readable(der: bytes) -> x509.Certificate | None:
    """A certificate of which every part that matters here can be read: the library parses on demand."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.subject.public_bytes()
        certificate.issuer.public_bytes()
        _ = certificate.extensions
    except (ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None
    return certificate


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def check_owner(header: Header, *, open_to_all: bool, mesh: str) -> None:
    """Raises BatchRefused unless the source's domain owns the product or the product is open to all.

    And where a source that can only observe others claims to speak of itself.
    """
    source = SpiffeId.parse(header.source)
    if source.path.startswith(_OBSERVERS) and header.origin != Origin.ORIGIN_OBSERVED:
        raise BatchRefused(
            RefusalReason.REFUSAL_REASON_FOREIGN_SOURCE,
            f"{header.source} observes others, and seals as if it spoke of itself",
        )
    if domain_of(source.trust_domain, mesh) != owner_of(header.product) and not open_to_all:
        raise BatchRefused(
            RefusalReason.REFUSAL_REASON_FOREIGN_SOURCE,
            f"{header.source} publishes to {header.product}, which belongs to another domain",
        )


def _sealed_time(header: Header) -> datetime:
    sealed_time = _time(header, "sealed_time")
    if sealed_time.year < 2000:
        raise _malformed("sealed_time is missing")
    return sealed_time


def _time(header: Header, name: str) -> datetime:
    # Outside of the calendar it would break every reader that prints it.
    try:
        moment: datetime = getattr(header, name).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise _malformed(f"{name} is no time") from None
    return moment


def _malformed(detail: str) -> BatchRefused:
    return BatchRefused(RefusalReason.REFUSAL_REASON_MALFORMED, detail)


def _signature(detail: str) -> BatchRefused:
    return BatchRefused(RefusalReason.REFUSAL_REASON_SIGNATURE, detail)
