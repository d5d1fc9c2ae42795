"""The provider's public keys, from its address or a file: kept for a while, and asked for seldom."""

import asyncio
import json
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from certs.people.settings import ProviderSettings
from telltale.errors import Unauthenticated, Unavailable
from telltale.identity.tokens import UNREADABLE

# A key that the provider has withdrawn is believed no longer than this.
_FRESH_SECONDS = 600.0
# Strangers can name keys that do not exist: asking again is not theirs to command.
_PAUSE_SECONDS = 30.0
_TIMEOUT_SECONDS = 5.0
_LARGEST = 256 * 1024
_SMALLEST_RSA = 2048
_OF_CURVE = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

_log = structlog.get_logger("certs")


@dataclass(frozen=True)
class ProviderKey:
    """A public key and the algorithms that it is for."""

    key: Any
    algorithms: frozenset[str]


class ProviderKeys:
    """The keys of one provider."""

    def __init__(
        self,
        read: Callable[[], bytes],
        origin: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`read` blocks, and raises OSError or ValueError when the keys cannot be had."""
        self._read = read
        self._origin = origin
        self._clock = clock
        self._lock = asyncio.Lock()
        self._keys: Mapping[str, ProviderKey] = {}
        self._read_at = self._tried_at = -float("inf")

    @classmethod
    def of(cls, settings: ProviderSettings) -> "ProviderKeys":
        if settings.jwks.startswith("/"):
            return cls(Path(settings.jwks).read_bytes, settings.jwks)
        return cls(lambda: _fetched(settings.jwks, settings.ca), settings.jwks)

    async def key(self, key_id: str | None) -> ProviderKey:
        """The key of this id; without an id the only one. Raises Unauthenticated or Unavailable."""
        async with self._lock:
            found = self._found(key_id)
            if found is None and self._clock() - self._tried_at >= _PAUSE_SECONDS:
                await self._refresh()
                found = self._found(key_id)
            if found is not None:
                return found
            if not self._fresh():
                raise Unavailable(
                    f"the provider's keys cannot be read from {self._origin}; try again in a minute"
                )
        raise Unauthenticated(
            "the ID token is signed by a key that the provider does not publish; log in again"
        )

    def _fresh(self) -> bool:
        return self._clock() - self._read_at < _FRESH_SECONDS

    def _found(self, key_id: str | None) -> ProviderKey | None:
        if not self._fresh():
            return None
        if key_id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(key_id)

    async def _refresh(self) -> None:
        self._tried_at = self._clock()
        try:
            self._keys = parse_keys(await asyncio.to_thread(self._read))
        except (OSError, ValueError, HTTPException) as failed:
            _log.warning("provider's keys not read", origin=self._origin, error=str(failed))
            return
        self._read_at = self._clock()


def parse_keys(data: bytes) -> dict[str, ProviderKey]:
    """The signing keys of a JWK set by their ids; raises ValueError when there is none.

    What is no public key for signatures is left out: providers publish keys for other ends too.
    """
    try:
        document = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it is no JWK set")
    keys = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        # A symmetric key is no public key, whoever publishes it.
        if entry.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        try:
            key = jwt.PyJWK(entry).key
        except UNREADABLE:
            continue
        algorithms = _algorithms(key)
        if "alg" in entry:
            algorithms &= {str(entry["alg"])}
        if algorithms:
            keys[str(entry.get("kid", f"#{number}"))] = ProviderKey(key, algorithms)
    if not keys:
        raise ValueError("it holds no public key for signatures")
    return keys


def _algorithms(key: Any) -> frozenset[str]:
    """What a key may sign with, by what it is: a token's header has no say in it."""
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _SMALLEST_RSA:
        return frozenset(f"{family}{bits}" for family in ("RS", "PS") for bits in (256, 384, 512))
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _OF_CURVE:
        return frozenset({_OF_CURVE[key.curve.name]})
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return frozenset({"EdDSA"})
    return frozenset()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The address is configured; another one is not, wherever it comes from."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _fetched(url: str, ca: Path | None) -> bytes:
    context = ssl.create_default_context(cafile=ca)
    opener = urllib.request.build_opener(
        # Proxies of the environment are none of ours, as for every other connection of the mesh.
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=context),
        _NoRedirects(),
    )
    with opener.open(url, timeout=_TIMEOUT_SECONDS) as answer:
        data: bytes = answer.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST} bytes")
    return data
