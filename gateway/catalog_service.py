"""The service `Catalog`: domains take their leases, and callers see the products that they may discover."""

from datetime import UTC

import grpc.aio
from google.protobuf.duration_pb2 import Duration

from gateway.access import Access
from gateway.catalog import Catalog
from gateway.decisions import REGISTER, Decisions
from gateway.feed import Feed
from telltale import naming
from telltale.api.mesh.v1 import catalog_pb2_grpc
from telltale.api.mesh.v1.catalog_pb2 import (
    CatalogEntry,
    CatalogState,
    ListProductsRequest,
    ListProductsResponse,
    RegisterRequest,
    RegisterResponse,
)
from telltale.errors import InvalidInput, TelltaleError
from telltale.rpc.auth import caller

_MAX_PATTERNS = 64


class CatalogService(catalog_pb2_grpc.CatalogServicer):
    """Answers from the catalog; descriptions come from the owners' descriptors."""

    def __init__(self, catalog: Catalog, access: Access, decisions: Decisions) -> None:
        self._catalog = catalog
        self._access = access
        self._decisions = decisions

    async def Register(
        self,
        request: RegisterRequest,
        context: "grpc.aio.ServicerContext[RegisterRequest, RegisterResponse]",
    ) -> RegisterResponse:
        """Only a domain service may call, for itself."""
        try:
            seconds = await self._catalog.register(caller().peer, request.address, request.descriptors_sha256)
        except TelltaleError as refused:
            self._decisions.denied(REGISTER, refused)
            raise
        self._decisions.allowed(REGISTER, f"it keeps the rules, and answers at {request.address}")
        lease = Duration()
        lease.FromNanoseconds(int(seconds * 1_000_000_000))
        return RegisterResponse(lease=lease)

    async def ListProducts(
        self,
        request: ListProductsRequest,
        context: "grpc.aio.ServicerContext[ListProductsRequest, ListProductsResponse]",
    ) -> ListProductsResponse:
        """The caller needs `discover` on each product; others are left out."""
        if len(request.products) > _MAX_PATTERNS:
            raise InvalidInput(f"{len(request.products)} patterns; at most {_MAX_PATTERNS} are taken")
        patterns = tuple(naming.check_pattern(pattern) for pattern in request.products) or ("*",)
        named = [name for name in self._catalog.feeds if naming.matches(name, patterns)]
        visible = await self._access.discoverable(caller(), named)
        feeds = [self._catalog.feeds[name] for name in sorted(visible) if name in self._catalog.feeds]
        return ListProductsResponse(entries=[self._entry(feed) for feed in feeds])

    def _entry(self, feed: Feed) -> CatalogEntry:
        owner = self._catalog.owner(feed.product)
        unreachable = self._catalog.unreachable_since(feed)
        live = max(feed.live_since, owner.live_since if owner else feed.live_since)
        entry = CatalogEntry(
            product=feed.contract.options,
            service=feed.contract.service,
            description=feed.contract.description,
            trust_domain=owner.trust_domain if owner else "",
            state=CatalogState.CATALOG_STATE_UNREACHABLE if unreachable else CatalogState.CATALOG_STATE_LIVE,
            records=feed.records,
            batches=feed.batches,
            subscribers=feed.subscribers,
        )
        entry.state_since.FromDatetime((unreachable or live).astimezone(UTC))
        if feed.last_event_time:
            entry.last_event_time.FromNanoseconds(feed.last_event_time)
        if feed.last_received_time:
            entry.last_received_time.FromNanoseconds(feed.last_received_time)
        return entry
