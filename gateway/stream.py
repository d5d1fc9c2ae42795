"""The service `Stream`: many products on one stream."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc
import grpc.aio

from gateway.access import Access
from gateway.admission import Admission
from gateway.catalog import Catalog
from gateway.subscription import Subscription
from telltale.api.mesh.v1.stream_pb2 import StreamSubscribeRequest
from telltale.errors import InvalidInput
from telltale.rpc.auth import Context, caller

_SERVICE = "telltale.api.mesh.v1.Stream"
_MAX_PATTERNS = 64


class StreamService:
    """Serves frames as the bytes that they are."""

    def __init__(self, catalog: Catalog, access: Access, admission: Admission) -> None:
        self._catalog = catalog
        self._access = access
        self._admission = admission

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers the service: the generated code would encode frames that are encoded already."""
        subscribe = grpc.unary_stream_rpc_method_handler(
            self.subscribe, request_deserializer=StreamSubscribeRequest.FromString
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, {"Subscribe": subscribe}),)
        )

    async def subscribe(self, request: StreamSubscribeRequest, context: Context) -> AsyncIterator[bytes]:
        """The caller needs `subscribe` on each product."""
        if not 1 <= len(request.products) <= _MAX_PATTERNS:
            raise InvalidInput(
                f"{len(request.products)} products; name between 1 and {_MAX_PATTERNS} products or patterns"
            )
        known = caller()
        with self._admission.admit(known.peer):
            subscription = Subscription(
                self._catalog,
                self._access,
                known,
                tuple(dict.fromkeys(request.products)),
                request.cursor.positions,
                request.start,
            )
            async with subscription, aclosing(subscription.frames()) as frames:
                # At once, for who opens the next stream before the present one ends.
                await context.send_initial_metadata(())
                async for frame in frames:
                    yield frame
