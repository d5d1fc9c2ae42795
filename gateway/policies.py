"""The service `Access` as the gateway has it: policies to read, by asking the domains on the caller's behalf.

Decisions are the domains' own business with those that forward calls: `Check` goes to them directly.
"""

import grpc.aio

from gateway.catalog import Catalog
from gateway.decisions import FORWARD, Decisions
from gateway.proxy import NotThroughGateway
from telltale.api.mesh.v1 import access_pb2_grpc
from telltale.api.mesh.v1.access_pb2 import (
    CheckRequest,
    CheckResponse,
    DescribePolicyRequest,
    DescribePolicyResponse,
)
from telltale.errors import NotFound, Unavailable
from telltale.rpc.auth import Context, caller
from telltale.rpc.client import calling

_DESCRIBE = "/telltale.api.mesh.v1.Access/DescribePolicy"
_PATIENCE_SECONDS = 5.0


class AccessService(access_pb2_grpc.AccessServicer):
    """Passes on what a domain says of its rules; it decides nothing and keeps nothing."""

    def __init__(self, catalog: Catalog, decisions: Decisions) -> None:
        self._catalog = catalog
        self._decisions = decisions

    async def Check(self, request: CheckRequest, context: Context) -> CheckResponse:
        """Whoever forwards calls asks the domain itself."""
        refused = NotThroughGateway(str(caller().principal), "telltale.api.mesh.v1.Access/Check")
        self._decisions.denied(FORWARD, refused)
        raise refused

    async def DescribePolicy(
        self, request: DescribePolicyRequest, context: Context
    ) -> DescribePolicyResponse:
        """The caller needs `discover` on a product of the domain, which decides that itself."""
        wanted = request.trust_domain
        owner = next((one for one in self._catalog.domains if one.trust_domain == wanted), None)
        if owner is None and self._catalog.settled:
            raise NotFound(f"no domain {wanted[:200]!r} has registered here; the catalog lists who has")
        if owner is None:
            raise Unavailable(f"{wanted[:200]!r} has not registered since this gateway started; try again")
        metadata = await owner.metadata(caller().token)
        call: grpc.aio.UnaryUnaryMultiCallable[DescribePolicyRequest, DescribePolicyResponse]
        call = owner.calls.unary_unary(
            _DESCRIBE,
            request_serializer=DescribePolicyRequest.SerializeToString,
            response_deserializer=DescribePolicyResponse.FromString,
        )
        with calling(owner.trust_domain):
            return await call(request, metadata=metadata, timeout=_PATIENCE_SECONDS)
