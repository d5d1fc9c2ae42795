"""How a workload comes to its first credentials, and back to some after it was away for too long."""

import asyncio
from pathlib import Path

import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from telltale.errors import ConfigurationError, Unauthenticated, Unavailable
from telltale.identity.credentials import Credentials
from telltale.identity.dialling import backoff
from telltale.identity.enrolment import AuthorityClient, JoinToken
from telltale.identity.keys import key_pem, load_key, new_key, write_secret
from telltale.settings import IdentitySettings

# The key while its first certificate is on the way: a retry after a crash must come with the same one.
_ENROLLING = "enrolling.key"

_log = structlog.get_logger("telltale.identity")


class Enrolment:
    """The state directory and the join token of one workload."""

    def __init__(self, settings: IdentitySettings, authority: AuthorityClient) -> None:
        self._state = settings.state
        self._token_file = settings.join_token_file
        self._enrollment = settings.enrollment
        self._authority = authority

    async def credentials(self) -> Credentials:
        """Those of the state directory while they are valid, otherwise new ones for the join token."""
        held = await asyncio.to_thread(Credentials.load, self._state)
        token = await asyncio.to_thread(self._join_token)
        # A join token for another name means that this directory is to become somebody else.
        if held is not None and (token is None or token.spiffe_id == held.spiffe_id):
            try:
                held.check()
                return held
            except Unauthenticated:
                if token is None:
                    raise
        if token is None:
            raise ConfigurationError(
                f"there is no identity in {self._state} and no join token; set TELLTALE_JOIN_TOKEN_FILE to a "
                "file with a fresh one, or TELLTALE_CERTIFICATE_FILE to that of another PKI"
            )
        return await self._enroll(token)

    async def _enroll(self, token: JoinToken) -> Credentials:
        if not self._enrollment:
            raise ConfigurationError(
                "TELLTALE_ENROLLMENT is not set; to join, a process needs its authority's enrolment port"
            )
        key = await asyncio.to_thread(enrolling_key, self._state)
        attempt = 0
        while True:
            try:
                credentials = await self._authority.enroll(token, key)
                break
            except Unavailable as unreachable:
                attempt += 1
                _log.info(
                    "waiting for the authority", spiffe_id=str(token.spiffe_id), reason=str(unreachable)
                )
                await asyncio.sleep(backoff(attempt))
            except Unauthenticated as refused:
                raise Unauthenticated(
                    f"cannot join as {token.spiffe_id}: {refused}. Ask for a new join token and put it into "
                    f"{self._token_file}"
                ) from refused
        await asyncio.to_thread(self._joined, credentials)
        _log.info("joined", spiffe_id=str(credentials.spiffe_id), not_after=credentials.not_after.isoformat())
        return credentials

    def _join_token(self) -> JoinToken | None:
        if self._token_file is None:
            return None
        try:
            return JoinToken.parse(self._token_file.read_text())
        except FileNotFoundError:
            return None
        except OSError as unreadable:
            raise ConfigurationError(
                f"cannot read the join token {self._token_file}: {unreadable.strerror}"
            ) from unreadable

    def _joined(self, credentials: Credentials) -> None:
        enrolled(self._state, credentials)
        if self._token_file is not None:
            try:
                self._token_file.unlink(missing_ok=True)
            except OSError as kept:
                # It may be mounted read-only; the authority takes it only once anyway.
                _log.warning("used join token not deleted", file=str(self._token_file), error=str(kept))


def enrolling_key(state: Path) -> ec.EllipticCurvePrivateKey:
    """The key to enrol with: a new one, or that of an attempt that stopped half way. Blocks."""
    path = state / _ENROLLING
    if path.exists():
        return load_key(path)
    key = new_key()
    write_secret(path, key_pem(key))
    return key


def enrolled(state: Path, credentials: Credentials) -> None:
    """Keeps what the key was enrolled for; the next enrolment makes another. Blocks."""
    credentials.save(state)
    (state / _ENROLLING).unlink(missing_ok=True)
