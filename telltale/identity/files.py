"""Certificate and key as files that somebody else's PKI keeps fresh: SPIRE's helper, cert-manager, step-ca.

They are watched, not asked for. A pair that does not fit together is one that is just being written. A new
one is taken only when it is of the same identity and holds by this process's own trust bundle, as with peers.
"""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from telltale.errors import ConfigurationError, TelltaleError, Unauthenticated
from telltale.identity.credentials import Credentials
from telltale.identity.trust import Trust
from telltale.naming import SpiffeId

# A pair is written, or a link swapped, within moments: so often and with this pause a start looks again.
_TRIES = 10
_PAUSE_SECONDS = 1.0
# What is left of a certificate's life when those who renew it should long have done so.
_LATE = 0.25
# How often a late certificate is warned of, at most; sooner when little is left.
_WARN_SECONDS = 3600.0
_SHORTEST_WARN_SECONDS = 5.0

_log = structlog.get_logger("telltale.identity")

_Look = tuple[tuple[int, int, int], ...]


class _Unfit(ConfigurationError):
    """Key and certificate are of two pairs: one of them is still to be written."""


class CertificateFiles:
    """Two files, and the credentials in them. `certificates`: leaf first, in PEM."""

    def __init__(self, certificates: Path, key: Path, trust: Trust) -> None:
        self._certificates = certificates
        self._key = key
        self._trust = trust
        self._seen: _Look = ()
        self._unfit = 0
        self._complained = ""

    async def first(self) -> Credentials:
        """The credentials to start with; raises ConfigurationError or Unauthenticated with what is wrong."""
        attempt = 1
        while True:
            try:
                self._seen = await asyncio.to_thread(self._look)
                return await asyncio.to_thread(self._load)
            except _Unfit:
                if attempt == _TRIES:
                    raise
                attempt += 1
                await asyncio.sleep(_PAUSE_SECONDS)

    async def next(self, present: Credentials) -> Credentials:
        """Waits for a pair that takes the place of the present one."""
        warned = 0.0
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            fresh = await self._changed(present)
            if fresh is not None:
                return fresh
            pause = _warning_pause(present)
            if pause is not None and loop.time() >= warned + pause:
                warned = loop.time()
                _log.warning(
                    "certificate ends soon and its file has not been renewed; see whoever writes it",
                    file=str(self._certificates),
                    spiffe_id=str(present.spiffe_id),
                    not_after=present.not_after.isoformat(),
                )

    async def _changed(self, present: Credentials) -> Credentials | None:
        """The pair, when it is another one that can be taken. What is wrong with it is told once."""
        try:
            seen = await asyncio.to_thread(self._look)
            if seen == self._seen:
                return None
            fresh = await asyncio.to_thread(self._load, present.spiffe_id)
        except _Unfit as half:
            # The other file is on its way; for so long.
            self._unfit += 1
            if self._unfit == _TRIES:
                self._complain(half)
            return None
        except TelltaleError as wrong:
            self._complain(wrong)
            return None
        self._seen, self._unfit, self._complained = seen, 0, ""
        return fresh if fresh.certificates != present.certificates else None

    def _complain(self, wrong: TelltaleError) -> None:
        if self._complained != str(wrong):
            self._complained = str(wrong)
            _log.error("new certificate not taken; the one before stays", error=str(wrong))

    def _look(self) -> _Look:
        """What can be seen of the files without reading them, behind all links."""
        try:
            found = [path.stat() for path in (self._certificates, self._key)]
        except OSError as missing:
            raise ConfigurationError(
                f"cannot read {missing.filename}: {missing.strerror}; TELLTALE_CERTIFICATE_FILE and "
                "TELLTALE_KEY_FILE name the files that your PKI writes"
            ) from missing
        return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)

    def _load(self, expected: SpiffeId | None = None) -> Credentials:
        credentials = read_pair(self._certificates, self._key)
        if datetime.now(UTC) >= credentials.not_after:
            ended = f"{credentials.not_after:%Y-%m-%d %H:%M:%S} UTC"
            raise Unauthenticated(
                f"the certificate in {self._certificates} expired at {ended}; see whoever writes it"
            )
        if expected is not None and credentials.spiffe_id != expected:
            raise ConfigurationError(
                f"{self._certificates} is now of {credentials.spiffe_id} and this process is {expected}; "
                "start it again if it shall be another"
            )
        leaf, *issuers = credentials.certificates
        try:
            self._trust.identify_peer(leaf, issuers)
        except Unauthenticated as refused:
            trust_domain = credentials.spiffe_id.trust_domain
            raise Unauthenticated(
                f"nobody would believe {self._certificates}: {refused}. The trust bundle needs its root as "
                f"{trust_domain}.bundle.pem, and the file the certificates in between"
            ) from refused
        return credentials


def read_pair(certificates: Path, key: Path) -> Credentials:
    """The credentials in two PEM files; raises ConfigurationError when they are none. Blocks."""
    private = _private_key(_content(key), key)
    chain = _certificates(_content(certificates), certificates)
    if chain[0].public_key() != private.public_key():
        raise _Unfit(f"the certificate in {certificates} belongs to another key than the one in {key}")
    return Credentials(private, tuple(one.public_bytes(Encoding.DER) for one in chain))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as unreadable:
        raise ConfigurationError(f"cannot read {path}: {unreadable.strerror}") from unreadable


def _private_key(pem: bytes, path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as broken:
        # Half of a file looks like this too.
        raise _Unfit(f"{path} holds no readable private key without a password") from broken
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        kind = f"EC {key.curve.name}" if isinstance(key, ec.EllipticCurvePrivateKey) else _name(key)
        raise ConfigurationError(
            f"the key in {path} is {kind} and the mesh speaks P-256 alone; "
            "have your PKI issue ECDSA P-256 (prime256v1) certificates"
        )
    return key


def _certificates(pem: bytes, path: Path) -> list[x509.Certificate]:
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as broken:
        raise _Unfit(f"{path} holds no readable certificate") from broken
    # Some write the root too. Nobody believes it for that.
    return [certificates[0], *(one for one in certificates[1:] if one.subject != one.issuer)]


def _name(key: object) -> str:
    """`RSA` for an object of RSAPrivateKey."""
    return type(key).__name__.strip("_").removesuffix("PrivateKey") or "of another kind"


def _warning_pause(credentials: Credentials) -> float | None:
    """Seconds between two warnings; None while there is nothing to warn of."""
    life = credentials.not_after - credentials.not_before
    left = credentials.not_after - datetime.now(UTC)
    if left > life * _LATE:
        return None
    return min(_WARN_SECONDS, max(_SHORTEST_WARN_SECONDS, life.total_seconds() * _LATE / 4))
