"""Keys of the mesh, all of them P-256, and how secrets lie on disk."""

import hashlib
import os
import secrets
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from telltale.errors import ConfigurationError


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new private key. P-256, because gRPC's TLS takes no Ed25519 certificates."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The private key as unencrypted PKCS #8 in PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def parse_key(pem: bytes, origin: Path) -> ec.EllipticCurvePrivateKey:
    """Reads a P-256 private key; `origin` is where it came from, for the message when it is none."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as broken:
        raise ConfigurationError(
            f"{origin} holds no readable private key; restore it or remove it"
        ) from broken
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigurationError(f"the key in {origin} is not P-256; remove it and enrol again")
    return key


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Reads a private key from a PEM file."""
    try:
        return parse_key(path.read_bytes(), path)
    except OSError as missing:
        raise ConfigurationError(f"cannot read the key {path}: {missing.strerror}") from missing


def write_secret(path: Path, secret: bytes) -> None:
    """Writes a file that only its owner can read; a crash leaves the old one or the new one, never half."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    """Makes a rename in the directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def signing_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A PKCS #10 request in DER. It names nobody: the authority decides whose certificate it will be."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def key_sha256(key: ec.EllipticCurvePublicKey) -> bytes:
    """SHA-256 of a public key as certificates have it (SubjectPublicKeyInfo in DER)."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()


def thumbprint(der: bytes) -> bytes:
    """SHA-256 of a certificate in DER."""
    return hashlib.sha256(der).digest()
