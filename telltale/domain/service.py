"""A domain service: descriptors, a policy, and everything that serves them. Read top to bottom."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc import aio
from pydantic import Field

from telltale import naming
from telltale.api.mesh.v1.access_pb2_grpc import add_AccessServicer_to_server
from telltale.api.mesh.v1.product_pb2 import Kind
from telltale.api.mesh.v1.schemas_pb2_grpc import add_SchemasServicer_to_server
from telltale.api.mesh.v1.stream_pb2 import ListRequest, SubscribeRequest, WatchRequest
from telltale.contract.image import Image, own_image
from telltale.contract.product import Contract
from telltale.contract.reflection import SymbolIndex, add_reflection
from telltale.domain.access import Access, AccessService, asking
from telltale.domain.ingest import Ingest
from telltale.domain.lease import keep_lease
from telltale.domain.listing import Listings
from telltale.domain.log import ProductLog
from telltale.domain.policy import Policy
from telltale.domain.products import Products
from telltale.domain.schemas import SchemasService
from telltale.domain.subscribe import Subscriptions
from telltale.identity.tokens import TokenVerifier
from telltale.identity.workload import Workload
from telltale.naming import SpiffeId
from telltale.rpc.auth import Authenticator
from telltale.rpc.server import serving
from telltale.seal.verify import Verifier
from telltale.settings import IdentitySettings
from telltale.source.telemetry import Telemetry, self_metrics

log = structlog.get_logger(__name__)

# Between two looks at what is too old or too much: what a flood brings meanwhile stands above the bound.
_PRUNE_SECONDS = 10.0
# Services of the mesh that a domain serves beside its products.
_MESH_SERVICES = tuple(f"telltale.api.mesh.v1.{name}" for name in ("Ingest", "Schemas", "Access"))


class DomainSettings(IdentitySettings):
    """Settings of a domain service."""

    listen: str = Field("0.0.0.0:7443", description="host:port that the service binds.")
    advertise: str = Field(description="host:port under which the gateway and the agents reach the service.")
    gateway: str = Field(description="host:port of the gateway.")
    platform: str = Field(description="host:port of the platform's domain service, for self-metrics.")
    policy: Path | None = Field(None, description="Cedar policy file; the domain's own when not set.")
    log_bytes: int = Field(
        64 << 30,
        gt=0,
        description="Bound of the batches in the log, in bytes; the product that has most loses its oldest.",
    )
    descriptors: list[Path] = Field(
        [], description="Compiled descriptor sets of further products: a JSON list of paths."
    )


@dataclass(frozen=True)
class Domain:
    """The parts of a running domain service."""

    me: Workload
    log: ProductLog
    products: Products
    ingest: Ingest
    telemetry: Telemetry


@contextlib.asynccontextmanager
async def serving_domain(
    me: Workload, settings: DomainSettings, domain: str, policy_file: Path
) -> AsyncIterator[Domain]:
    """Serves a domain while the body runs: its log, its products, its lease at the gateway."""
    mesh = settings.mesh
    image = own_image(domain)
    if settings.descriptors:
        image = Image.of_files([*image.files.values(), *Image.load(*settings.descriptors).files.values()])
    policy = Policy.load(settings.policy or policy_file)
    trust_domain = naming.trust_domain(domain, mesh)
    forwarders = frozenset({SpiffeId(naming.trust_domain(naming.PLATFORM, mesh), "/gateway")})
    async with (
        ProductLog(settings.state / "log.db", me.trust.distrust) as product_log,
        self_metrics(me, f"{domain} service", settings.state, settings.platform) as telemetry,
    ):
        products = Products(image, product_log)
        await products.load()
        access = Access(policy, products, mesh, telemetry.audit)
        ingest = Ingest(product_log, products, access, Verifier(me.trust), telemetry.report_refusal)
        tokens = TokenVerifier(me.trust, trust_domain)

        def add(server: aio.Server) -> None:
            ingest.add_to(server)
            add_SchemasServicer_to_server(SchemasService(products, access), server)
            add_AccessServicer_to_server(AccessService(access, trust_domain, tokens, forwarders), server)
            subscriptions = Subscriptions(product_log, access)
            listings = Listings(product_log, access)
            for contract in products.contracts.values():
                server.add_generic_rpc_handlers((_handlers(contract, subscriptions, listings),))
            add_reflection(server, _Visible(image, products, access).visible)

        authenticator = Authenticator(me.trust, trust_domain, forwarders)
        async with (
            serving(me, settings.listen, authenticator, add, auditor=telemetry.audit),
            asyncio.TaskGroup() as tasks,
        ):
            running = [
                tasks.create_task(_prune(product_log, products, settings.log_bytes)),
                tasks.create_task(product_log.watch()),
                tasks.create_task(keep_lease(me, settings.gateway, settings.advertise, image.sha256)),
            ]
            try:
                yield Domain(me, product_log, products, ingest, telemetry)
            finally:
                for task in running:
                    task.cancel()


async def run(settings: DomainSettings, domain: str, policy_file: Path, stopping: asyncio.Event) -> None:
    """A whole domain service, until `stopping` is set."""
    async with Workload.open(settings) as me, serving_domain(me, settings, domain, policy_file):
        await stopping.wait()


def _handlers(
    contract: Contract, subscriptions: Subscriptions, listings: Listings
) -> "grpc.GenericRpcHandler[Any, Any]":
    """The methods of a product's own service, whatever the product. Frames and lists are bytes already."""

    async def subscribe(
        request: SubscribeRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[bytes]:
        async for frame in subscriptions.subscribe(contract, request):
            yield frame

    async def watch(request: WatchRequest, context: "aio.ServicerContext[Any, Any]") -> AsyncIterator[bytes]:
        async for frame in subscriptions.watch(contract, request):
            yield frame

    async def listing(request: ListRequest, context: "aio.ServicerContext[Any, Any]") -> bytes:
        return await listings.page(contract, request)

    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Subscribe": grpc.unary_stream_rpc_method_handler(
            subscribe, request_deserializer=SubscribeRequest.FromString
        )
    }
    if contract.kind == Kind.KIND_INVENTORY:
        methods["Watch"] = grpc.unary_stream_rpc_method_handler(
            watch, request_deserializer=WatchRequest.FromString
        )
        methods["List"] = grpc.unary_unary_rpc_method_handler(
            listing, request_deserializer=ListRequest.FromString
        )
    return grpc.method_handlers_generic_handler(contract.service, methods)


class _Visible:
    """What reflection shows: the mesh's own services, and the products that the caller may discover."""

    def __init__(self, image: Image, products: Products, access: Access) -> None:
        self._index = SymbolIndex({**own_image("mesh").files, **image.files})
        self._products = products
        self._access = access
        self._shown: dict[frozenset[str], SymbolIndex] = {}

    async def visible(self, context: "aio.ServicerContext[Any, Any]") -> SymbolIndex:
        permitted = self._access.permitted(asking(), "discover")
        # As many entries as the policy tells groups of callers apart.
        if permitted not in self._shown:
            services = [self._products.contracts[name].service for name in permitted]
            self._shown[permitted] = self._index.only([*services, *_MESH_SERVICES])
        return self._shown[permitted]


async def _prune(product_log: ProductLog, products: Products, max_bytes: int) -> None:
    keep = {
        contract.name: contract.options.retention.ToTimedelta() for contract in products.contracts.values()
    }
    while True:
        try:
            deleted = await product_log.prune(keep, max_bytes)
            if deleted:
                log.info("retention passed", batches=deleted)
            if (size := await product_log.bytes()) > max_bytes:
                log.error("the log exceeds its bound by what inventories need", bytes=size, bound=max_bytes)
            forgotten = await products.prune()
            if forgotten:
                log.info("schemas forgotten that no kept batch needs", schemas=len(forgotten))
        except Exception as failed:  # the log stays usable, and the next round tries again
            log.error("retention failed", reason=str(failed))
        await asyncio.sleep(_PRUNE_SECONDS)
