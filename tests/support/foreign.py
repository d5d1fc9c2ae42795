"""Somebody else's PKI, as SPIRE or step-ca run one: root and intermediate without constraints of ours."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from telltale.identity.credentials import Credentials
from telltale.identity.keys import new_key

_YEAR = timedelta(days=365)


@dataclass
class ForeignPki:
    """`ForeignPki.make()`, then `pki.credentials("spiffe://servers.telltale.test/agent/web1")`."""

    root: x509.Certificate
    root_key: ec.EllipticCurvePrivateKey
    issuing: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, name: str = "Example Corp") -> "ForeignPki":
        root_key, key = new_key(), new_key()
        root_name = _name(f"{name} Root")
        root = _authority(root_name, root_name, root_key.public_key(), root_key, 1)
        issuing = _authority(_name(f"{name} Issuing"), root_name, key.public_key(), root_key, 0)
        return cls(root, root_key, issuing, key)

    def another(self, name: x509.Name) -> "ForeignPki":
        """The same root with another intermediate, of any name whatsoever."""
        key = new_key()
        issuing = _authority(name, self.root.subject, key.public_key(), self.root_key, 0)
        return ForeignPki(self.root, self.root_key, issuing, key)

    @property
    def root_pem(self) -> bytes:
        return self.root.public_bytes(Encoding.PEM)

    def credentials(self, *names: str, life: timedelta = timedelta(hours=1)) -> Credentials:
        """A new key and a leaf with any names whatsoever."""
        key, now = new_key(), datetime.now(UTC)
        general = [x509.UniformResourceIdentifier(n) if "://" in n else x509.DNSName(n) for n in names]
        leaf = (
            _builder(_name("workload"), self.issuing.subject, key.public_key(), self.key)
            .not_valid_before(now - life / 4)
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(general), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return Credentials(key, (_der(leaf), _der(self.issuing)))


@dataclass
class Mounted:
    """A directory as Kubernetes mounts a secret: a new version swaps the link `..data` in one step."""

    directory: Path
    version: int = 0

    @property
    def certificate(self) -> Path:
        return self.directory / "tls.crt"

    @property
    def key(self) -> Path:
        return self.directory / "tls.key"

    def put(self, credentials: Credentials) -> None:
        self.version += 1
        version = self.directory / f"..{self.version}"
        version.mkdir(parents=True)
        (version / "tls.crt").write_bytes(credentials.chain_pem)
        (version / "tls.key").write_bytes(credentials.key_pem)
        fresh = self.directory / "..fresh"
        fresh.symlink_to(version.name)
        os.replace(fresh, self.directory / "..data")
        for file in (self.certificate, self.key):
            if not file.is_symlink():
                file.symlink_to(f"..data/{file.name}")


def _authority(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    path_length: int,
) -> x509.Certificate:
    now = datetime.now(UTC)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    return (
        _builder(subject, issuer, public_key, issuer_key)
        .not_valid_before(now - _YEAR)
        .not_valid_after(now + _YEAR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
