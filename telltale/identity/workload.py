"""The life of a workload's identity: it enrols once, renews itself at half-life, and fetches its tokens."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Never

import grpc
import grpc.aio
import structlog
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from telltale.errors import ConfigurationError, Unavailable
from telltale.identity.channel import RenewingChannel
from telltale.identity.credentials import Credentials
from telltale.identity.dialling import backoff, dial
from telltale.identity.enrolment import AuthorityClient, IssuedToken, Issuer
from telltale.identity.files import CertificateFiles
from telltale.identity.hearing import hearing
from telltale.identity.joining import Enrolment
from telltale.identity.trust import Trust
from telltale.naming import SpiffeId
from telltale.settings import IdentitySettings

# How soon a changed trust bundle is taken up.
_TRUST_SECONDS = 1.0
# A workload calls a handful of domains; a table of more would be a mistake of the caller.
_MOST_TOKENS = 256

_log = structlog.get_logger("telltale.identity")


class Workload:
    """A process with an identity. Its credentials may be replaced at any time while it lives."""

    def __init__(self, credentials: Credentials, trust: Trust, issuer: Issuer) -> None:
        self.trust = trust
        self._credentials = credentials
        self._issuer = issuer
        self._tokens: dict[tuple[bytes, tuple[str, ...]], _HeldToken] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: IdentitySettings, *, hears: bool = True) -> "AsyncIterator[Workload]":
        """Loads the identity from the state directory or enrols with the join token, and keeps it alive.

        Where another PKI writes it into files, it is theirs that is followed.
        hears: whether it is told whom the mesh distrusts. Everybody is who believes others in anything.
        """
        trust = await asyncio.to_thread(Trust.load, settings.trust, settings.mesh)
        authority = AuthorityClient(trust, settings.authority, settings.enrollment or "")
        files = _files(settings, trust)
        if files is not None:
            me = cls(await files.first(), trust, authority)
            keeping = me._kept(me._follow_files(files))
        else:
            enrolment = Enrolment(settings, authority)
            me = cls(await enrolment.credentials(), trust, authority)
            keeping = me.renewing(settings.state, enrolment)
        async with contextlib.AsyncExitStack() as life:
            await life.enter_async_context(keeping)
            if hears:
                own = {me.spiffe_id.trust_domain: settings.authority}
                await life.enter_async_context(hearing(trust, own, me.channel, settings.state))
            yield me

    @property
    def credentials(self) -> Credentials:
        return self._credentials

    @property
    def spiffe_id(self) -> SpiffeId:
        return self._credentials.spiffe_id

    async def token(self, *audiences: str) -> str:
        """A token for the services of these trust domains, bound to the present certificate."""
        return (await self.issued_token(*audiences)).text

    async def issued_token(self, *audiences: str) -> IssuedToken:
        """As `token`, with the time when it ends."""
        while True:
            credentials = self._credentials
            key = (credentials.thumbprint, tuple(sorted(set(audiences))))
            held = self._tokens.get(key)
            if held is None:
                if len(self._tokens) >= _MOST_TOKENS:
                    self._tokens.clear()
                held = self._tokens[key] = _HeldToken()
            issued = await held.get(self._issuer, credentials, key[1])
            # A renewal in between left a token bound to a certificate that new channels no longer show.
            if credentials is self._credentials:
                return issued

    def channel(self, address: str, server_name: str) -> grpc.aio.Channel:
        """A channel to the server that proves `server_name`; each call shows the present certificate.

        A call raises Unavailable while the identity that the server would have is distrusted.
        """
        service, _, trust_domain = server_name.partition(".")
        server = SpiffeId(trust_domain, f"/{service}")

        def check() -> None:
            # gRPC does not show a client the server's certificate, so the name alone decides.
            word = self.trust.distrust.name(server)
            if word is not None:
                raise Unavailable(f"{word}: it is not called until that is lifted")

        return RenewingChannel(
            lambda: self._credentials,
            lambda credentials: dial(address, server_name, self.trust.roots_for(server_name), credentials),
            lambda: self.trust.bundle,
            check,
        )

    def server_credentials(self, *, require_client: bool = True) -> grpc.ServerCredentials:
        """TLS for a server, which shows the certificate of the moment to every new connection.

        A server for strangers shows the roots too: they know theirs by its SHA-256 alone.
        """
        lock = threading.Lock()
        shown, believed = self._credentials, self.trust.bundle

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            # gRPC calls this on a thread of its own at every handshake; None means unchanged.
            nonlocal shown, believed
            with lock:
                if self._credentials is shown and self.trust.bundle is believed:
                    return None
                shown, believed = self._credentials, self.trust.bundle
                return self._server_configuration(shown, strangers=not require_client)

        return grpc.dynamic_ssl_server_credentials(
            self._server_configuration(shown, strangers=not require_client),
            fetch,  # type: ignore[arg-type]  # the stubs do not know that None is allowed
            require_client_authentication=require_client,
        )

    def sign(self, data: bytes) -> bytes:
        """ECDSA P-256 with SHA-256, in DER."""
        return self._credentials.key.sign(data, ec.ECDSA(hashes.SHA256()))

    def _server_configuration(
        self, credentials: Credentials, *, strangers: bool
    ) -> grpc.ServerCertificateConfiguration:
        beside = self.trust.root_pem if strangers else b""
        return grpc.ssl_server_certificate_configuration(
            [(credentials.key_pem, credentials.chain_pem + beside)],
            root_certificates=self.trust.all_roots_pem,
        )

    @contextlib.asynccontextmanager
    async def renewing(
        self, state: Path | None = None, enrolment: Enrolment | None = None
    ) -> AsyncIterator[None]:
        """Keeps the credentials fresh, and follows the trust bundle, while the body runs."""
        async with self._kept(self._renew_for_ever(state, enrolment)):
            yield

    @contextlib.asynccontextmanager
    async def _kept(self, keeping: Coroutine[None, None, None]) -> AsyncIterator[None]:
        tasks = (
            asyncio.create_task(keeping, name="certificate renewal"),
            asyncio.create_task(follow(self.trust), name="trust bundle"),
        )
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew_for_ever(self, state: Path | None, enrolment: Enrolment | None) -> None:
        attempt = 0
        while True:
            await asyncio.sleep(self._until_renewal() if attempt == 0 else backoff(attempt))
            try:
                await self._renew(state, enrolment)
                attempt = 0
                _log.info(
                    "certificate renewed",
                    spiffe_id=str(self.spiffe_id),
                    not_after=self._credentials.not_after.isoformat(),
                )
            except Exception as failed:
                # Whatever it is, a process must not lose its identity for having stopped trying.
                attempt += 1
                _log.warning(
                    "certificate not renewed; trying again",
                    spiffe_id=str(self.spiffe_id),
                    not_after=self._credentials.not_after.isoformat(),
                    error=str(failed) or type(failed).__name__,
                )

    async def _follow_files(self, files: CertificateFiles) -> None:
        attempt = 0
        while True:
            try:
                self._credentials = await files.next(self._credentials)
            except Exception as broken:
                # Whatever it is, a process must not lose its identity for having stopped looking.
                attempt += 1
                _log.error(
                    "certificate files not followed; looking again",
                    spiffe_id=str(self.spiffe_id),
                    error=str(broken) or type(broken).__name__,
                )
                await asyncio.sleep(backoff(attempt))
                continue
            attempt = 0
            self._tokens.clear()
            _log.info(
                "certificate replaced",
                spiffe_id=str(self.spiffe_id),
                not_after=self._credentials.not_after.isoformat(),
            )

    def _until_renewal(self) -> float:
        """Seconds until half of the certificate's life is over."""
        life = self._credentials.not_after - self._credentials.not_before
        due = self._credentials.not_before + life / 2
        return max(0.0, (due - datetime.now(UTC)).total_seconds())

    async def _renew(self, state: Path | None, enrolment: Enrolment | None) -> None:
        if enrolment is not None and datetime.now(UTC) >= self._credentials.not_after:
            credentials = await enrolment.credentials()
        else:
            credentials = await self._issuer.renew(self._credentials)
        if state is not None:
            await asyncio.to_thread(credentials.save, state)
        self._credentials = credentials
        self._tokens.clear()


def _files(settings: IdentitySettings, trust: Trust) -> CertificateFiles | None:
    certificate, key = settings.certificate_file, settings.key_file
    if certificate is not None and key is not None:
        return CertificateFiles(certificate, key, trust)
    if certificate is not None or key is not None:
        raise ConfigurationError(
            "TELLTALE_CERTIFICATE_FILE and TELLTALE_KEY_FILE belong together; set both, or neither to enrol"
        )
    return None


async def follow(trust: Trust) -> Never:
    """Takes up each change of the trust bundle's directory, until cancelled."""
    while True:
        await asyncio.sleep(_TRUST_SECONDS)
        try:
            if await asyncio.to_thread(trust.refresh):
                _log.info("trust bundle changed", trust_domains=sorted(trust.trust_domains))
        except Exception as broken:
            # Whatever it is, the bundle that was read before goes on holding.
            _log.error("changed trust bundle refused; the one before stays", error=str(broken))


class _HeldToken:
    """One token, fetched anew at half of its life, once for all who wait for it."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._issued: IssuedToken | None = None
        self._fresh_until = datetime.min.replace(tzinfo=UTC)

    async def get(self, issuer: Issuer, credentials: Credentials, audiences: tuple[str, ...]) -> IssuedToken:
        async with self._lock:
            now = datetime.now(UTC)
            if self._issued is None or now >= self._fresh_until:
                try:
                    self._issued = await issuer.token(credentials, audiences)
                    self._fresh_until = now + (self._issued.expires - now) / 2
                except Unavailable:
                    # A short outage of the authority stops nobody whose token still holds.
                    if self._issued is None or now >= self._issued.expires - timedelta(seconds=1):
                        raise
            return self._issued
