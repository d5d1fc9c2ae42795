"""The directories of `certs init`: the root, one authority a trust domain, and the public trust bundle."""

import json
from collections.abc import Sequence
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certs.issuing import ISSUING_CERTIFICATE, ISSUING_KEY, ROOT_CERTIFICATE, TOKEN_KEY, key_id
from certs.profiles import issuing_certificate, root_certificate, root_name
from telltale.errors import ConfigurationError
from telltale.identity.keys import key_pem, load_key, new_key, write_secret
from telltale.identity.tokens import ALGORITHM
from telltale.identity.trust import JWKS_SUFFIX, ROOT_FILE
from telltale.naming import PLATFORM, trust_domain

# The gateway is the one server that people and their tools reach without a name service.
_EXTRA_DNS = {PLATFORM: ("localhost",)}
_ROOT_KEY = "root.key"


class Home:
    """A directory with `root/`, `authorities/<domain>/` and `trust/`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "root"
        self.trust = directory / "trust"

    def authority(self, domain: str) -> Path:
        """The directory of a domain's authority."""
        return self.directory / "authorities" / domain

    def init(self, mesh: str, domains: Sequence[str]) -> list[str]:
        """Makes what is missing and leaves what is there; returns the domains that are new.

        Raises ConfigurationError when the mesh's name differs, or when a domain is to be added and the
        root key has left this machine.
        """
        root = self._root(mesh)
        added = []
        for domain in domains:
            if not (self.authority(domain) / ISSUING_CERTIFICATE).exists():
                self._add(domain, trust_domain(domain, mesh), root)
                added.append(domain)
            self._publish(domain, trust_domain(domain, mesh), root)
        return added

    def root_sha256(self) -> str:
        """The root certificate's SHA-256, by which a newcomer knows the right mesh."""
        return self._root_certificate().fingerprint(hashes.SHA256()).hex()

    def _root(self, mesh: str) -> x509.Certificate:
        path, key_path = self.root / ROOT_FILE, self.root / _ROOT_KEY
        if not path.exists():
            _write_public(path, root_certificate(_make_key(key_path), mesh).public_bytes(Encoding.PEM))
        certificate = self._root_certificate()
        if certificate.subject != root_name(mesh):
            raise ConfigurationError(
                f"{self.directory} belongs to another mesh ({certificate.subject.rfc4514_string()}); "
                "choose another --home, or name the same mesh"
            )
        return certificate

    def _root_certificate(self) -> x509.Certificate:
        path = self.root / ROOT_FILE
        try:
            return x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as broken:
            raise ConfigurationError(
                f"cannot read the root certificate {path}; make a mesh with `python -m certs init`"
            ) from broken

    def _add(self, domain: str, name: str, root: x509.Certificate) -> None:
        key_path = self.root / _ROOT_KEY
        if not key_path.exists():
            raise ConfigurationError(
                f"{domain} cannot be added without the root key; bring {key_path} back for this command"
            )
        root_key = load_key(key_path)
        directory = self.authority(domain)
        _make_key(directory / TOKEN_KEY)
        issuing_key = _make_key(directory / ISSUING_KEY)
        issuing = issuing_certificate(
            issuing_key.public_key(), name, root, root_key, _EXTRA_DNS.get(domain, ())
        )
        _write_public(directory / ROOT_CERTIFICATE, root.public_bytes(Encoding.PEM))
        # The certificate last: it marks the authority as complete.
        _write_public(directory / ISSUING_CERTIFICATE, issuing.public_bytes(Encoding.PEM))

    def _publish(self, domain: str, name: str, root: x509.Certificate) -> None:
        """Puts what everybody may know into the trust bundle."""
        self.trust.mkdir(mode=0o755, parents=True, exist_ok=True)
        token_key = load_key(self.authority(domain) / TOKEN_KEY).public_key()
        _write_public(self.trust / ROOT_FILE, root.public_bytes(Encoding.PEM))
        _write_public(self.trust / f"{name}{JWKS_SUFFIX}", json.dumps({"keys": [_jwk(token_key)]}).encode())


def _make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A new key, written before it is used; or the one of an attempt that stopped half way."""
    if not path.exists():
        write_secret(path, key_pem(new_key()))
    return load_key(path)


def _jwk(public_key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    entry = jwt.algorithms.ECAlgorithm.to_jwk(public_key, as_dict=True)
    return {**entry, "kid": key_id(public_key), "alg": ALGORITHM, "use": "sig"}


def _write_public(path: Path, content: bytes) -> None:
    """Writes atomically what others may read; leaves an equal file alone."""
    if path.exists() and path.read_bytes() == content:
        return
    write_secret(path, content)
    path.chmod(0o644)
