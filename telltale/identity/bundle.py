"""What a trust directory holds at one moment: roots of the mesh and of single trust domains, and token keys.

`root.pem` are the mesh's roots: one, or two while one follows the other. `<trust domain>.bundle.pem` are
roots that speak for that trust domain and no other, of a PKI that it brings along. `<trust domain>.jwks.json`
are its public token keys.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from telltale.errors import ConfigurationError

ROOT_FILE = "root.pem"
JWKS_SUFFIX = ".jwks.json"
BUNDLE_SUFFIX = ".bundle.pem"
# Roots and keys are few and small; what is larger was put there by mistake.
_LARGEST_FILE = 1 << 20
_MOST_FILES = 1_000

# Of each file: name, inode, size, and time of change. Equal ones mean that there is nothing new to read.
Look = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class Bundle:
    """Roots and token keys. Another one replaces it as a whole."""

    roots: tuple[x509.Certificate, ...]
    token_keys: Mapping[str, Mapping[str, jwt.PyJWK]] = field(default_factory=dict)
    own_roots: Mapping[str, tuple[x509.Certificate, ...]] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path) -> "Bundle":
        """Reads a trust directory; raises ConfigurationError when it is not whole. Blocks."""
        try:
            files = {path.name: _read(path) for path in _files(directory)}
            root_pem = files.pop(ROOT_FILE, None) or (directory / ROOT_FILE).read_bytes()
        except OSError as unreadable:
            raise ConfigurationError(
                f"cannot read the trust bundle in {directory}: {unreadable.strerror}; "
                "copy the directory `trust` that `certs init` made"
            ) from unreadable
        return cls(
            parse_roots(root_pem, ROOT_FILE),
            {
                name.removesuffix(JWKS_SUFFIX): parse_jwks(content, name)
                for name, content in files.items()
                if name.endswith(JWKS_SUFFIX)
            },
            {
                name.removesuffix(BUNDLE_SUFFIX): parse_roots(content, name)
                for name, content in files.items()
                if name.endswith(BUNDLE_SUFFIX)
            },
        )

    def roots_of(self, trust_domain: str) -> tuple[x509.Certificate, ...]:
        """The roots that may speak for a trust domain: the mesh's, and those of its own bundle."""
        return (*self.roots, *self.own_roots.get(trust_domain, ()))

    @cached_property
    def all_roots(self) -> tuple[x509.Certificate, ...]:
        """Whoever may speak for anybody."""
        return (*self.roots, *(root for roots in self.own_roots.values() for root in roots))


def look(directory: Path) -> Look:
    """What can be seen of a trust directory without reading it. Blocks."""
    seen = []
    for path in _files(directory):
        try:
            status = path.stat()
        except OSError:
            # Removed, or a link that is being replaced: the next look sees what it has become.
            continue
        seen.append((path.name, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(seen)


def parse_roots(data: bytes, origin: str) -> tuple[x509.Certificate, ...]:
    """Reads the root certificates of a PEM file."""
    try:
        roots = tuple(x509.load_pem_x509_certificates(data))
    except (ValueError, x509.InvalidVersion) as broken:
        raise ConfigurationError(f"the trust bundle's {origin} holds no readable certificate") from broken
    return roots


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


def pem_of(certificates: Iterable[x509.Certificate]) -> bytes:
    """Certificates as one PEM text."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _files(directory: Path) -> list[Path]:
    found = [directory / ROOT_FILE] if (directory / ROOT_FILE).exists() else []
    for suffix in (JWKS_SUFFIX, BUNDLE_SUFFIX):
        found += sorted(directory.glob("*" + suffix))
    if len(found) > _MOST_FILES:
        raise ConfigurationError(
            f"{directory} holds {len(found)} files of trust; {_MOST_FILES} are the most: is it the right one?"
        )
    return found


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise ConfigurationError(f"{path} is larger than a file of trust may be, 1 MiB")
    return content
