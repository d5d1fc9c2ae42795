"""A certificate chain with its private key: what proves who a process is."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from telltale.errors import ConfigurationError, InvalidInput, Unauthenticated
from telltale.identity.keys import key_pem, parse_key, thumbprint, write_secret
from telltale.naming import SpiffeId

# One file for both: a crash during renewal cannot leave a key without its certificate.
_FILE = "identity.pem"


def spiffe_id_of(certificate: x509.Certificate) -> SpiffeId:
    """The one SPIFFE ID of a certificate; raises Unauthenticated when it has none, several or another URI."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        uris = []
    if len(uris) != 1:
        raise Unauthenticated(
            f"the certificate has {len(uris)} URI names and needs exactly one SPIFFE ID; enrol for a new one"
        )
    try:
        return SpiffeId.parse(uris[0])
    except InvalidInput as wrong:
        raise Unauthenticated(f"the certificate's name does not hold: {wrong}") from wrong


def dns_names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The server names that a certificate proves; none for agents and operators."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(names.get_values_for_type(x509.DNSName))


@dataclass(frozen=True)
class Credentials:
    """A private key and the certificates that vouch for it, in DER, leaf first and without the root."""

    key: ec.EllipticCurvePrivateKey
    certificates: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not self.certificates:
            raise ConfigurationError("credentials without a certificate prove nobody; enrol again")
        if self.leaf.public_key() != self.key.public_key():
            raise ConfigurationError("the certificate belongs to another key; remove both and enrol again")

    @cached_property
    def leaf(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.certificates[0])

    @cached_property
    def spiffe_id(self) -> SpiffeId:
        return spiffe_id_of(self.leaf)

    @cached_property
    def thumbprint(self) -> bytes:
        """SHA-256 of the leaf."""
        return thumbprint(self.certificates[0])

    @property
    def not_before(self) -> datetime:
        return self.leaf.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        return self.leaf.not_valid_after_utc

    @cached_property
    def key_pem(self) -> bytes:
        return key_pem(self.key)

    @cached_property
    def chain_pem(self) -> bytes:
        """Leaf first, then the issuing authority."""
        return b"".join(
            x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in self.certificates
        )

    def check(self, now: datetime | None = None) -> None:
        """Raises Unauthenticated with what is wrong, because a peer's handshake would end without a word."""
        now = now or datetime.now(UTC)
        if now >= self.not_after:
            raise Unauthenticated(
                f"the certificate of {self.spiffe_id} expired at {self.not_after:%Y-%m-%d %H:%M:%S} UTC; "
                "enrol again with a new join token in TELLTALE_JOIN_TOKEN_FILE, or by `telltale agent join`"
            )
        if now < self.not_before:
            raise Unauthenticated(
                f"the certificate of {self.spiffe_id} is valid only from {self.not_before:%Y-%m-%d %H:%M:%S} "
                f"UTC on and this clock says {now:%Y-%m-%d %H:%M:%S}; set the clock"
            )

    def save(self, directory: Path) -> None:
        """Writes key and certificates, readable by the owner only. Blocks."""
        write_secret(directory / _FILE, self.key_pem + self.chain_pem)

    @staticmethod
    def remove(directory: Path) -> None:
        """Removes what `save` wrote; the identity ends on this machine. Blocks."""
        (directory / _FILE).unlink(missing_ok=True)

    @classmethod
    def load(cls, directory: Path) -> "Credentials | None":
        """Reads what `save` wrote; None when there is nothing. Blocks."""
        path = directory / _FILE
        try:
            pem = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as unreadable:
            raise ConfigurationError(f"cannot read {path}: {unreadable.strerror}") from unreadable
        try:
            certificates = x509.load_pem_x509_certificates(pem)
        except ValueError as broken:
            raise ConfigurationError(
                f"{path} holds no readable certificate; remove it and enrol again"
            ) from broken
        chain = tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)
        return cls(parse_key(pem, path), chain)
