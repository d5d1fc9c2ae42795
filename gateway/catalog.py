"""Which products are live and where their owners are: derived from leases, and nothing else is kept.

A domain's registration replaces what it registered before, as one step; a refused one changes nothing.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Never

import structlog

from gateway import metrics, registration
from gateway.addresses import resolve
from gateway.domain import Domain, dial
from gateway.feed import Feed
from gateway.registration import Registration
from gateway.ring import Ring
from gateway.settings import GatewaySettings
from telltale import naming
from telltale.contract.reflection import PullLimits, pull
from telltale.errors import InvalidInput, LimitExceeded, PermissionMissing, TelltaleError
from telltale.identity.workload import Workload
from telltale.naming import SpiffeId
from telltale.rpc.client import call_metadata

log = structlog.get_logger(__name__)

_LIMITS = PullLimits(max_bytes=registration.MAX_BYTES, max_files=registration.MAX_FILES)
# A product alone on the mesh does not need all the memory that hundreds would share.
_LARGEST_RING_BYTES = 32 * 1024 * 1024
_SERVICE_PATH = "/service"
# Reading and checking descriptors costs much more than asking for it: so many times a minute and domain.
_READS_A_MINUTE = 30


class Catalog:
    """Leases of domains, and a feed for each of their products."""

    def __init__(self, me: Workload, settings: GatewaySettings) -> None:
        self._me = me
        self._settings = settings
        self._domains: dict[str, Domain] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._reads: dict[str, deque[float]] = {}
        self._feeds: dict[str, Feed] = {}
        self._owners: dict[str, Domain] = {}
        self._products_of_services: dict[str, str] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup
        self._started = time.monotonic()
        self._listeners: set[asyncio.Event] = set()
        # Counts changes of what is registered.
        self.version = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs the feeds while the body does."""
        async with asyncio.TaskGroup() as self._tasks:
            heeding = self._tasks.create_task(self._heed(), name="distrust")
            try:
                yield
            finally:
                heeding.cancel()
                for run in self._runs.values():
                    run.cancel()
                await asyncio.gather(*self._runs.values(), return_exceptions=True)
                for domain in self._domains.values():
                    await domain.close()

    @property
    def settled(self) -> bool:
        """Whether every domain that is up has had the time to register since this gateway started."""
        return time.monotonic() - self._started > self._settings.lease_seconds

    @property
    def feeds(self) -> Mapping[str, Feed]:
        """The products by name."""
        return self._feeds

    @property
    def domains(self) -> list[Domain]:
        """Those that hold or held a lease."""
        return list(self._domains.values())

    def owner(self, product: str) -> Domain | None:
        """The domain that registered a product."""
        return self._owners.get(product)

    def product_of(self, service: str) -> str | None:
        """The product that a gRPC service is."""
        return self._products_of_services.get(service)

    def watch(self, listener: asyncio.Event) -> None:
        """Sets the event whenever products appear or go."""
        self._listeners.add(listener)

    def unwatch(self, listener: asyncio.Event) -> None:
        """Stops what `watch` began."""
        self._listeners.discard(listener)

    def unreachable_since(self, feed: Feed) -> datetime | None:
        """When the owner's lease ended or the upstream broke, whichever was first; None while it is live."""
        domain = self._owners[feed.product]
        ended = []
        overdue = time.monotonic() - domain.lease_until
        if overdue > 0:
            ended.append(datetime.now(UTC) - timedelta(seconds=overdue))
        if feed.broken_since is not None:
            ended.append(feed.broken_since)
        return min(ended, default=None)

    async def register(self, principal: SpiffeId, address: str, descriptors_sha256: bytes) -> float:
        """Takes or renews the lease of the caller's domain; returns its seconds."""
        if principal.path != _SERVICE_PATH:
            raise PermissionMissing(
                str(principal), "register", "the catalog, which takes domain services only"
            )
        trust_domain = principal.trust_domain
        naming.domain_of(trust_domain, self._settings.mesh)
        async with self._locks.setdefault(trust_domain, asyncio.Lock()):
            try:
                dialled = await resolve(address, self._settings.networks)
                await self._take(trust_domain, dialled, descriptors_sha256)
            except TelltaleError as refused:
                metrics.REFUSALS.add(1, {"kind": "registration", "domain": trust_domain})
                log.warning(
                    "registration refused", domain=trust_domain, address=address[:200], reason=str(refused)
                )
                raise
        return self._settings.lease_seconds

    async def _heed(self) -> Never:
        """Ends the leases of services that are distrusted, and what is read from them."""
        distrust = self._me.trust.distrust
        with distrust.listening() as changed:
            while True:
                await changed.wait()
                changed.clear()
                for domain in tuple(self._domains.values()):
                    if distrust.name(SpiffeId(domain.trust_domain, _SERVICE_PATH)) is not None:
                        await self._end(domain)

    async def _end(self, domain: Domain) -> None:
        async with self._locks.setdefault(domain.trust_domain, asyncio.Lock()):
            log.warning("lease ended: the service is distrusted", domain=domain.trust_domain)
            domain.lease_until = min(domain.lease_until, time.monotonic())
            # New connections are refused by the channel itself until the word is lifted.
            await domain.moved(domain.address)

    async def _take(self, trust_domain: str, address: str, descriptors_sha256: bytes) -> None:
        domain = self._domains.get(trust_domain)
        if domain is None or domain.address != address or domain.descriptors_sha256 != descriptors_sha256:
            offered = await self._read(trust_domain, address)
            self._require_room(domain, offered)
            if domain is None:
                domain = self._domains[trust_domain] = Domain(self._me, trust_domain, address, offered)
            domain.descriptors_sha256 = descriptors_sha256
            self._apply(domain, offered)
            if domain.address != address:
                await domain.moved(address)
        if domain.lease_until < time.monotonic():
            domain.live_since = datetime.now(UTC)
        domain.lease_until = time.monotonic() + self._settings.lease_seconds

    async def _read(self, trust_domain: str, address: str) -> Registration:
        """What the service at the address offers, if it proves the trust domain and keeps the rules."""
        self._count_read(trust_domain)
        async with dial(self._me, address, trust_domain) as channel:
            metadata = await call_metadata(self._me, trust_domain)
            files = await pull(channel, metadata, _LIMITS)
        return await asyncio.to_thread(registration.check, files, trust_domain, self._settings.mesh)

    def _count_read(self, trust_domain: str) -> None:
        reads = self._reads.setdefault(trust_domain, deque(maxlen=_READS_A_MINUTE))
        now = time.monotonic()
        if len(reads) == _READS_A_MINUTE and now - reads[0] < 60.0:
            raise LimitExceeded(
                "registrations",
                f"{trust_domain} registered changes {_READS_A_MINUTE} times within a minute; slow down",
            )
        reads.append(now)

    def _require_room(self, domain: Domain | None, offered: Registration) -> None:
        before = len(domain.registration.contracts) if domain is not None else 0
        count = len(self._feeds) - before + len(offered.contracts)
        if count > self._settings.max_products:
            raise LimitExceeded(
                "max_products",
                f"there would be {count} products; TELLTALE_MAX_PRODUCTS of the gateway allows "
                f"{self._settings.max_products}",
            )
        for service in (contract.service for contract in offered.contracts.values()):
            taken = self._products_of_services.get(service)
            if taken is not None and self._owners[taken] is not domain:
                raise InvalidInput(f"the service {service} is already a product of another domain")

    def _apply(self, domain: Domain, offered: Registration) -> None:
        """Replaces what the domain offers. Nothing here waits, so nobody sees half of it."""
        for product in set(domain.registration.contracts) - set(offered.contracts):
            self._withdraw(product)
        domain.registration = offered
        for product, contract in offered.contracts.items():
            feed = self._feeds.get(product)
            if feed is None:
                feed = Feed(
                    contract,
                    upstream=domain.log(product, lambda owner: owner.upstream),
                    history=domain.log(product, lambda owner: owner.calls),
                    ring=Ring(self._settings.ring_bytes),
                )
                self._feeds[product] = feed
                self._owners[product] = domain
                self._runs[product] = self._tasks.create_task(feed.run(), name=f"feed {product}")
            feed.contract = contract
        self._products_of_services = {feed.contract.service: name for name, feed in self._feeds.items()}
        share = min(_LARGEST_RING_BYTES, self._settings.ring_bytes // max(1, len(self._feeds)))
        for feed in self._feeds.values():
            feed.ring.resize(share)
        self.version += 1
        for listener in self._listeners:
            listener.set()
        log.info(
            "registered", domain=domain.trust_domain, address=domain.address, products=len(offered.contracts)
        )

    def _withdraw(self, product: str) -> None:
        feed = self._feeds.pop(product)
        feed.withdrawn = True
        del self._owners[product]
        self._runs.pop(product).cancel()
        # Whoever reads it has to notice.
        feed.ring.extend(())
