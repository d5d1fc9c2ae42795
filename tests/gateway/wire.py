"""A gateway and domain services on a real wire: mTLS, tokens, reflection; the domains' logs are in memory."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from gateway.serving import serving_gateway
from gateway.settings import GatewaySettings
from telltale.api.mesh.v1.access_pb2 import AccessDecision, Action, CheckRequest, CheckResponse
from telltale.api.mesh.v1.access_pb2_grpc import AccessServicer, add_AccessServicer_to_server
from telltale.api.mesh.v1.catalog_pb2 import RegisterRequest, RegisterResponse
from telltale.api.mesh.v1.catalog_pb2_grpc import CatalogStub
from telltale.api.mesh.v1.schemas_pb2 import GetSchemaRequest, GetSchemaResponse
from telltale.api.mesh.v1.schemas_pb2_grpc import SchemasServicer, add_SchemasServicer_to_server
from telltale.api.mesh.v1.stream_pb2 import SubscribeRequest
from telltale.contract import Image, Schema, contracts_in, own_image
from telltale.contract.reflection import SymbolIndex, add_reflection
from telltale.errors import NotFound, PermissionMissing, Unavailable
from telltale.identity.tokens import TokenVerifier
from telltale.identity.workload import Workload
from telltale.rpc.auth import Authenticator, Caller, caller
from telltale.rpc.client import call_metadata
from telltale.rpc.server import serving
from tests.gateway.fakelog import FakeLog
from tests.support.auditing import Recorded
from tests.support.mesh import Mesh

GATEWAY = "/gateway"
MESH_SERVICES = tuple(f"telltale.api.mesh.v1.{name}" for name in ("Ingest", "Schemas", "Access"))


@dataclass
class FakeDomain(AccessServicer, SchemasServicer):
    """A domain service whose policy is a set: (principal, action, product); nothing else is permitted."""

    mesh: Mesh
    me: Workload
    domain: str
    files: Mapping[str, bytes]
    image: Image
    logs: dict[str, FakeLog] = field(default_factory=dict)
    permitted: set[tuple[str, Action, str]] = field(default_factory=set)
    # Who called what, for whom.
    calls: list[tuple[str, Caller]] = field(default_factory=list)
    address: str = ""
    # Other services than the image's, by full name.
    services: tuple[str, ...] = ()
    # Whether it decides nothing.
    silent: bool = False

    def permit(self, who: Workload, *actions: Action) -> None:
        for product in self.logs:
            self.permitted |= {(str(who.spiffe_id), action, product) for action in actions}

    def forbid(self, who: Workload) -> None:
        self.permitted = {rule for rule in self.permitted if rule[0] != str(who.spiffe_id)}

    async def Check(self, request: CheckRequest, context: Any) -> CheckResponse:
        self.calls.append(("Check", caller()))
        if self.silent:
            raise Unavailable("not now")
        tokens = TokenVerifier(self.mesh.trust, self.mesh.trust_domain(self.domain))
        principal = str(tokens.verify(request.token, None).subject)
        return CheckResponse(
            decisions=[
                AccessDecision(allowed=(principal, query.action, query.product) in self.permitted)
                for query in request.queries
            ]
        )

    async def Get(self, request: GetSchemaRequest, context: Any) -> GetSchemaResponse:
        self.calls.append(("Get", caller()))
        for contract in contracts_in(self.image):
            schema = Schema.of(self.image, contract)
            if schema.sha256 == request.sha256:
                self._require(Action.ACTION_DISCOVER, contract.name)
                return GetSchemaResponse(file_descriptor_set=schema.data)
        raise NotFound("no such schema")

    def _require(self, action: Action, product: str) -> None:
        principal = str(caller().principal)
        if (principal, action, product) not in self.permitted:
            raise PermissionMissing(principal, Action.Name(action), product)

    def add_to(self, server: grpc.aio.Server) -> None:
        add_AccessServicer_to_server(self, server)
        add_SchemasServicer_to_server(self, server)
        index = SymbolIndex(self.files)
        shown = index if self.services else index.only([*MESH_SERVICES, *self._product_services()])

        async def visible(context: Any) -> SymbolIndex:
            return shown

        add_reflection(server, visible)
        for contract in contracts_in(self.image):
            server.add_generic_rpc_handlers((self._product(contract.name, contract.service),))

    def _product_services(self) -> Iterator[str]:
        return (contract.service for contract in contracts_in(self.image))

    def _product(self, product: str, service: str) -> "grpc.GenericRpcHandler[Any, Any]":
        async def subscribe(request: SubscribeRequest, context: Any) -> AsyncIterator[bytes]:
            self.calls.append((f"{service}/Subscribe", caller()))
            async for frame in self.logs[product].read(request.cursor.positions, request.start):
                yield frame

        async def listing(request: bytes, context: Any) -> bytes:
            self.calls.append((f"{service}/List", caller()))
            self._require(Action.ACTION_LIST, product)
            context.set_trailing_metadata((("pages", "1"),))
            return b"listed " + request

        async def watch(request: bytes, context: Any) -> AsyncIterator[bytes]:
            self.calls.append((f"{service}/Watch", caller()))
            self._require(Action.ACTION_WATCH, product)
            yield b"watched " + request
            # And nothing more, for ever.
            await asyncio.Event().wait()

        return grpc.method_handlers_generic_handler(
            service,
            {
                "Watch": grpc.unary_stream_rpc_method_handler(watch),
                "Subscribe": grpc.unary_stream_rpc_method_handler(
                    subscribe, request_deserializer=SubscribeRequest.FromString
                ),
                "List": grpc.unary_unary_rpc_method_handler(listing),
            },
        )


@asynccontextmanager
async def domain_service(
    mesh: Mesh, domain: str, image: Image | None = None, files: Mapping[str, bytes] | None = None
) -> AsyncIterator[FakeDomain]:
    """A domain service that offers an image; `files` replaces what its reflection shows."""
    me = mesh.workload(domain, "/service", [mesh.server_name("service", domain)])
    image = image or own_image(domain)
    one = FakeDomain(mesh, me, domain, files or {**own_image("mesh").files, **image.files}, image)
    one.services = ("as they are",) if files else ()
    for contract in contracts_in(image):
        one.logs[contract.name] = FakeLog(random.Random(1), product=contract.name)
    forwarders = frozenset({mesh.spiffe_id("platform", GATEWAY)})
    authenticator = Authenticator(mesh.trust, mesh.trust_domain(domain), forwarders)
    async with serving(me, "127.0.0.1:0", authenticator, one.add_to, grace=0.2) as port:
        one.address = f"127.0.0.1:{port}"
        yield one


@dataclass
class Gateway:
    """A gateway on its port, and how others call it."""

    mesh: Mesh
    me: Workload
    port: int
    recorded: Recorded

    @asynccontextmanager
    async def channel(self, who: Workload) -> AsyncIterator[grpc.aio.Channel]:
        async with who.channel(
            f"127.0.0.1:{self.port}", self.mesh.server_name("gateway", "platform")
        ) as channel:
            yield channel

    async def metadata(self, who: Workload) -> tuple[tuple[str, str], ...]:
        """For a call that may be passed on to any domain."""
        return await call_metadata(who, *map(self.mesh.trust_domain, ("platform", "servers", "network")))

    async def register(self, domain: FakeDomain, address: str = "", digest: bytes = b"1") -> RegisterResponse:
        async with self.channel(domain.me) as channel:
            request = RegisterRequest(address=address or domain.address, descriptors_sha256=digest)
            metadata = await call_metadata(domain.me, self.mesh.trust_domain("platform"))
            response: RegisterResponse = await CatalogStub(channel).Register(
                request, metadata=metadata, timeout=10
            )
            return response


@asynccontextmanager
async def gateway_service(mesh: Mesh, state: Path, **settings: Any) -> AsyncIterator[Gateway]:
    """The real gateway, without its self-metrics."""
    me = mesh.workload("platform", GATEWAY, [mesh.server_name("gateway", "platform"), "localhost"])
    configured = GatewaySettings(
        mesh=mesh.name,
        state=state,
        trust=mesh.home.trust,
        authority="127.0.0.1:1",
        enrollment="127.0.0.1:1",
        platform="127.0.0.1:1",
        listen="127.0.0.1:0",
        **settings,
    )
    recorded = Recorded()
    async with serving_gateway(me, configured, recorded) as port:
        yield Gateway(mesh, me, port, recorded)
