"""Serves one or several authorities from one process, each with its own keys, state and ports."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import structlog
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import NoDecode

from certs.addresses import Addresses
from certs.console import telling_of_the_console
from certs.distrusting import Distrusting
from certs.distrusts import Distrusts
from certs.following import following
from certs.invitations import Invitations
from certs.issuing import IssuingAuthority, OwnIssuer
from certs.ledger import Ledger
from certs.limits import InvitationLimit, KnockLimit
from certs.lineage import Lineage
from certs.people.logins import Logins
from certs.people.record import PeopleRecord
from certs.people.settings import PeopleSettings
from certs.policy import DEFAULT, InvitationPolicy
from certs.record import Record
from certs.service import AuthorityService, EnrolmentService
from certs.sessions import Sessions
from telltale.api.mesh.v1 import authority_pb2_grpc
from telltale.audit import UNRECORDED, Auditor
from telltale.errors import ConfigurationError
from telltale.identity.hearing import hearing
from telltale.identity.trust import Trust
from telltale.identity.workload import Workload
from telltale.naming import OPERATORS, domain_of, trust_domain
from telltale.rpc.auth import CertificateAuthenticator
from telltale.rpc.bounds import LARGEST_QUESTION, MEMBERS
from telltale.rpc.server import serving
from telltale.settings import Settings
from telltale.source.audit import self_audit
from telltale.source.telemetry import self_metrics

_log = structlog.get_logger("certs")


class AuthorityAddress(BaseModel):
    """One authority: where it lies and where it listens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: Path
    listen: str
    enrollment: str
    # What newcomers are told where it differs: behind a forwarded port, or when listening on all addresses.
    authority_address: str = ""
    enrollment_address: str = ""
    # Where the domain's agents push.
    service_address: str = ""
    # The authorities of the other domains, host:port by domain: whose words of distrust are passed on.
    peers: Mapping[str, str] = {}
    # Where people find the data.
    gateway_address: str = ""
    # How people log in: a JSON file. Nobody does where it is not set.
    people: Path | None = None
    policy: Path = DEFAULT


class AuthoritySettings(Settings):
    """What an authority process needs."""

    authorities: Annotated[tuple[AuthorityAddress, ...], NoDecode] = Field(
        description='JSON list of {"directory", "listen", "enrollment"}: an authority\'s directory, the '
        "host:port for renewal and tokens (mTLS), and the host:port for enrolment. Each may add what it "
        'tells newcomers, "authority_address", "enrollment_address", "service_address" and '
        '"gateway_address", the file of its "policy", the file "people" by which people log in, and as '
        '"peers" the authorities of the other domains, as {"domain": "host:port"}, whose words of distrust '
        "it passes on.",
        min_length=1,
    )
    trust: Path | None = Field(
        None,
        description="Directory with <trust domain>.jwks.json of each, whose tokens ask for join tokens and "
        "distrust, and <trust domain>.bundle.pem of another PKI, whose members get tokens. Without it nobody "
        "of them can.",
    )
    platform: str | None = Field(
        None, description="host:port of the platform's domain service, for self-metrics; none without it."
    )
    leaf_seconds: int = Field(24 * 3600, ge=2, le=7 * 24 * 3600, description="Life of certificates.")
    token_seconds: int = Field(15 * 60, ge=2, le=15 * 60, description="Life of tokens.")
    enrollments_per_second: float = Field(
        20, gt=0, description="Attempts to join, over time, from everywhere."
    )
    enrollments_per_second_and_address: float = Field(
        1, gt=0, description="Attempts to join, over time, from one address."
    )
    invitations_per_second: float = Field(
        1, gt=0, description="Join tokens asked for over the wire, over time; and words of distrust."
    )

    @field_validator("authorities", mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError('is no JSON list of {"directory", "listen", "enrollment"}') from None


_ROLE = "authority"
# A process asks for one token at a time and listens to one stream of distrust; few share an identity.
_BOUNDS = replace(MEMBERS, per_caller=64, per_forwarder=0, message=LARGEST_QUESTION)
# A machine that starts a whole mesh, or a rack behind one address, joins in one burst.
_BURST_SECONDS = 30


@contextlib.asynccontextmanager
async def serving_authority(
    address: AuthorityAddress,
    settings: AuthoritySettings,
    *,
    reports: bool = False,
    auditor: Auditor = UNRECORDED,
) -> AsyncIterator[tuple[int, int]]:
    """Serves one authority while the body runs; yields its port and its enrolment port.

    reports: whether this one publishes the metrics of the process. auditor: told of its decisions where the
    settings name no platform to publish them to.
    """
    authority = await asyncio.to_thread(
        IssuingAuthority.load,
        address.directory,
        leaf_life=timedelta(seconds=settings.leaf_seconds),
        token_life=timedelta(seconds=settings.token_seconds),
    )
    ledger = await asyncio.to_thread(Ledger, address.directory)
    sessions = await asyncio.to_thread(Sessions, address.directory)
    lineage = await asyncio.to_thread(Lineage, address.directory)
    told = Addresses(
        address.authority_address or _reachable(address.listen),
        address.enrollment_address or _reachable(address.enrollment),
        address.service_address,
        address.gateway_address,
    )
    limit = KnockLimit(
        settings.enrollments_per_second,
        int(settings.enrollments_per_second * _BURST_SECONDS) + 1,
        settings.enrollments_per_second_and_address,
        int(settings.enrollments_per_second_and_address * _BURST_SECONDS) + 1,
    )
    # Callers may be of a PKI that the trust bundle names; without one they are of this authority.
    trust = authority.trust
    if settings.trust is not None:
        trust = await asyncio.to_thread(Trust.load, settings.trust, authority.mesh)
        authority.trust.distrust = trust.distrust
    elif address.peers:
        raise ConfigurationError("to follow its peers an authority needs their keys: set TELLTALE_TRUST")
    peers = {trust_domain(domain, authority.mesh): peer for domain, peer in address.peers.items()}
    policy = await asyncio.to_thread(InvitationPolicy.load, address.policy)
    me = Workload(authority.own_credentials(), trust, OwnIssuer(authority))
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(me.renewing())
        await stack.enter_async_context(following(authority))
        if settings.platform is not None:
            auditor = await stack.enter_async_context(
                _reporting(me, address.directory, settings.platform, metrics=reports)
            )
        record = Record(auditor)
        await stack.enter_async_context(telling_of_the_console(ledger, record))
        invitations = Invitations(authority, ledger, policy, _limit(settings), trust, told, record)
        words = Distrusts(ledger.state, authority.trust_domain)
        distrusting = Distrusting(authority, words, policy, _limit(settings), trust, trust.distrust, record)
        # Before anybody is served: whom not to serve.
        await stack.enter_async_context(hearing(trust, peers, me.channel, address.directory))
        await stack.enter_async_context(distrusting.telling())
        known = AuthorityService(authority, sessions, lineage, invitations, distrusting, record)
        logins = await asyncio.to_thread(_logins, address, authority, sessions, trust, told, record)
        strangers = EnrolmentService(authority, ledger, limit, told, record, logins)
        port = await stack.enter_async_context(
            serving(
                me,
                address.listen,
                CertificateAuthenticator(trust),
                lambda server: authority_pb2_grpc.add_AuthorityServicer_to_server(known, server),
                auditor=auditor,
                bounds=_BOUNDS,
            )
        )
        enrollment = await stack.enter_async_context(
            serving(
                me,
                address.enrollment,
                None,
                lambda server: authority_pb2_grpc.add_AuthorityServicer_to_server(strangers, server),
                auditor=auditor,
            )
        )
        # A port that the kernel has chosen is known only now.
        told.authority = told.authority or _reachable(address.listen, port)
        told.enrollment = told.enrollment or _reachable(address.enrollment, enrollment)
        yield port, enrollment


def _limit(settings: AuthoritySettings) -> InvitationLimit:
    """What a stolen operator can ask for."""
    rate = settings.invitations_per_second
    return InvitationLimit(rate, int(rate * _BURST_SECONDS) + 1)


def _logins(
    address: AuthorityAddress,
    authority: IssuingAuthority,
    sessions: Sessions,
    trust: Trust,
    told: Addresses,
    record: Record,
) -> Logins | None:
    """What lets people log in, where they do; raises ConfigurationError. Blocks."""
    if address.people is None:
        return None
    if domain_of(authority.trust_domain, authority.mesh) != OPERATORS:
        raise ConfigurationError(
            f"people are operators: the authority of {authority.trust_domain} takes no file `people`"
        )
    if not trust.trust_domains:
        raise ConfigurationError("people need TELLTALE_TRUST: it names the trust domains that they may call")
    settings = PeopleSettings.read(address.people)
    groups = None
    if settings.directory is not None:
        try:
            # Only who has a directory needs its library.
            from certs.people.directory import Directory
        except ImportError:
            raise ConfigurationError("a directory needs ldap3; install the extra `directory`") from None
        groups = Directory(settings.directory)
    people = PeopleRecord(address.directory)
    return Logins(settings, authority, people, sessions, groups, trust, told, record)


def _reachable(listen: str, chosen: int = 0) -> str:
    """What others may dial; empty while it says nothing, as `0.0.0.0:7410` does and port 0."""
    host, _, number = listen.rpartition(":")
    port = chosen or (int(number) if number.isdigit() else 0)
    return f"{host}:{port}" if port and host not in ("", "0.0.0.0", "[::]") else ""  # noqa: S104 -- it is compared, not bound


@contextlib.asynccontextmanager
async def _reporting(
    me: Workload, directory: Path, platform: str, *, metrics: bool
) -> AsyncIterator[Auditor]:
    """Every authority signs what it decides; metrics are the process's, and one speaks for all of them."""
    if metrics:
        async with self_metrics(me, _ROLE, directory, platform) as telemetry:
            yield telemetry.audit
    else:
        async with self_audit(me, _ROLE, directory, platform) as audit:
            yield audit


async def serve(settings: AuthoritySettings, stopping: asyncio.Event) -> None:
    """Serves until the process is told to stop."""
    async with contextlib.AsyncExitStack() as stack:
        for number, address in enumerate(settings.authorities):
            await stack.enter_async_context(serving_authority(address, settings, reports=number == 0))
        _log.info("authorities ready", count=len(settings.authorities))
        await stopping.wait()
