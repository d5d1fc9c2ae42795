"""Everything of a running gateway, put together. Reads top to bottom.

Its memory is bounded by settings and constants: recent batches by `ring_bytes` over all products; a stream
by one frame on its way and four that wait (fanout); streams in all and of one identity (admission);
descriptors by 4 MiB a domain (registration), schemas by 32 MiB, remembered decisions by 100,000 (access).
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc.aio

from gateway.access import Access
from gateway.admission import Admission
from gateway.catalog import Catalog
from gateway.catalog_service import CatalogService
from gateway.decisions import Decisions
from gateway.policies import AccessService
from gateway.proxy import Router
from gateway.reflection import Reflection
from gateway.schemas import SchemasService
from gateway.settings import GatewaySettings
from gateway.stream import StreamService
from telltale import naming
from telltale.api.mesh.v1.access_pb2_grpc import add_AccessServicer_to_server
from telltale.api.mesh.v1.catalog_pb2_grpc import add_CatalogServicer_to_server
from telltale.api.mesh.v1.schemas_pb2_grpc import add_SchemasServicer_to_server
from telltale.audit import UNRECORDED, Auditor
from telltale.contract.reflection import add_reflection
from telltale.identity.workload import Workload
from telltale.rpc.auth import Authenticator
from telltale.rpc.bounds import MEMBERS
from telltale.rpc.server import serving


@contextlib.asynccontextmanager
async def serving_gateway(
    me: Workload, settings: GatewaySettings, auditor: Auditor = UNRECORDED
) -> AsyncIterator[int]:
    """Serves the gateway while the body runs; yields its port.

    The auditor is told of what the gateway itself decides: registrations, limits, and what it never forwards.
    """
    catalog = Catalog(me, settings)
    access = Access(catalog)
    decisions = Decisions(auditor)
    admission = Admission(settings.max_streams, settings.max_streams_per_caller, decisions)

    def add(server: grpc.aio.Server) -> None:
        add_CatalogServicer_to_server(CatalogService(catalog, access, decisions), server)
        add_SchemasServicer_to_server(SchemasService(catalog, access, decisions), server)
        add_AccessServicer_to_server(AccessService(catalog, decisions), server)
        StreamService(catalog, access, admission).add_to(server)
        add_reflection(server, Reflection(catalog, access).visible)
        # Last: it takes every method that is left.
        server.add_generic_rpc_handlers((Router(catalog, access, admission, decisions),))

    # The gateway stands for nobody else to it: it accepts calls from those who make them, and no forwarders.
    platform = naming.trust_domain(naming.PLATFORM, settings.mesh)
    authenticator = Authenticator(me.trust, platform)
    # Beside streams and routed calls, which the admission counts, callers ask for what there is.
    per_caller = settings.max_streams_per_caller + MEMBERS.per_caller
    bounds = replace(MEMBERS, per_caller=per_caller, per_forwarder=0)
    async with (
        catalog.running(),
        serving(me, settings.listen, authenticator, add, auditor=auditor, bounds=bounds) as port,
    ):
        yield port
