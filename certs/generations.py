"""The keys of an authority on disk, and how the next generation of them takes the place of the present one.

The certificate `issuing.pem` decides: the issuing key is the one among `issuing*.key` that fits it, so that a
renewal that stops half way changes nothing. A token key is known to those who check tokens before it signs
its first: `token-next.key` is published from the start, and a renewal puts it in the place of `token.key`.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from telltale.errors import ConfigurationError
from telltale.identity.keys import key_pem, load_key, new_key, write_secret
from telltale.identity.tokens import ALGORITHM, LONGEST_LIFE

ISSUING_CERTIFICATE = "issuing.pem"
TOKEN_KEY = "token.key"
NEXT_TOKEN_KEY = "token-next.key"
_ISSUING_KEYS = "issuing*.key"


@dataclass(frozen=True)
class Generation:
    """What an authority issues with."""

    issuing_key: ec.EllipticCurvePrivateKey
    issuing: x509.Certificate
    token_key: ec.EllipticCurvePrivateKey

    @classmethod
    def load(cls, directory: Path) -> "Generation":
        """Reads the present one; raises ConfigurationError when there is none. Blocks."""
        try:
            issuing = x509.load_pem_x509_certificate((directory / ISSUING_CERTIFICATE).read_bytes())
        except (OSError, ValueError) as missing:
            raise ConfigurationError(
                f"{directory} holds no authority ({missing}); make one with `python -m certs init`"
            ) from missing
        return cls(fitting_key(directory, _ISSUING_KEYS, issuing), issuing, load_key(directory / TOKEN_KEY))


def key_id(public_key: ec.EllipticCurvePublicKey) -> str:
    """Names a key by what it is, so that two generations cannot be mistaken."""
    der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:16]


def make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A new key, written before it is used; or the one of an attempt that stopped half way."""
    if not path.exists():
        write_secret(path, key_pem(new_key()))
    return load_key(path)


def new_issuing_key(directory: Path) -> ec.EllipticCurvePrivateKey:
    """A key beside the present one, for the next certificate."""
    key = new_key()
    write_secret(directory / f"issuing-{key_id(key.public_key())}.key", key_pem(key))
    return key


def forget_other_keys(directory: Path, pattern: str, certificate: x509.Certificate) -> None:
    """Removes the keys that sign nothing any more. What they have signed holds without them."""
    for path in directory.glob(pattern):
        if load_key(path).public_key() != certificate.public_key():
            path.unlink()


def fitting_key(directory: Path, pattern: str, certificate: x509.Certificate) -> ec.EllipticCurvePrivateKey:
    """The key of a certificate among the files of a pattern."""
    for path in sorted(directory.glob(pattern)):
        try:
            key = load_key(path)
        except ConfigurationError:
            # Removed since the look, because it signs no more; or no key at all, which is then missed below.
            continue
        if key.public_key() == certificate.public_key():
            return key
    raise ConfigurationError(
        f"{directory} holds no key ({pattern}) that fits its certificate; restore it from your backup"
    )


def put_issuing(directory: Path, issuing: x509.Certificate) -> None:
    """From now on the authority issues with this certificate and its key, which lies there already."""
    write_public(directory / ISSUING_CERTIFICATE, issuing.public_bytes(Encoding.PEM))
    forget_other_keys(directory, _ISSUING_KEYS, issuing)


def promote_token_key(directory: Path, published: bytes) -> bool:
    """From now on the next token key signs, and another one is next; False when nobody knows that key yet."""
    upcoming = make_key(directory / NEXT_TOKEN_KEY)
    if key_id(upcoming.public_key()) not in {entry.get("kid") for entry in _entries(published)}:
        return False
    (directory / NEXT_TOKEN_KEY).replace(directory / TOKEN_KEY)
    make_key(directory / NEXT_TOKEN_KEY)
    return True


def published_token_keys(directory: Path, before: bytes) -> bytes:
    """An authority's JWK set: the key that signs, the one that will, and those whose last token may live.

    `before` is the set as it was published; `exp` in it says when a retired key may go.
    """
    current = [make_key(directory / name).public_key() for name in (TOKEN_KEY, NEXT_TOKEN_KEY)]
    entries = [_jwk(key) for key in current]
    known = {entry["kid"] for entry in entries}
    now = datetime.now(UTC)
    for entry in _entries(before):
        if entry.get("kid") in known:
            continue
        ends = entry.get("exp", int((now + LONGEST_LIFE).timestamp()))
        if ends > now.timestamp():
            entries.append({**entry, "exp": ends})
    return json.dumps({"keys": entries}).encode()


def write_public(path: Path, content: bytes) -> None:
    """Writes atomically what others may read; leaves an equal file alone."""
    if path.exists() and path.read_bytes() == content:
        return
    write_secret(path, content)
    path.chmod(0o644)


def _entries(jwks: bytes) -> list[dict[str, Any]]:
    try:
        entries = json.loads(jwks)["keys"]
        return [entry for entry in entries if isinstance(entry, dict)]
    except (ValueError, KeyError, TypeError):
        return []


def _jwk(public_key: ec.EllipticCurvePublicKey) -> dict[str, Any]:
    entry = jwt.algorithms.ECAlgorithm.to_jwk(public_key, as_dict=True)
    return {**entry, "kid": key_id(public_key), "alg": ALGORITHM, "use": "sig"}
