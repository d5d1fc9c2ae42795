"""Typed calls: a product's `Subscribe` from the fan-out, its `List` and `Watch` byte for byte from its owner.

What would change something is not for the middle of the mesh: whoever may do it calls the domain itself.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Never

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from gateway.access import Access, Decision
from gateway.admission import Admission
from gateway.catalog import Catalog
from gateway.decisions import FORWARD, Decisions
from gateway.subscription import CHECK_SECONDS, Denied, Subscription, missing
from telltale.api.mesh.v1.access_pb2 import ACTION_WATCH
from telltale.api.mesh.v1.stream_pb2 import SubscribeRequest
from telltale.errors import InvalidInput, PermissionMissing, Unavailable
from telltale.rpc.auth import AUTHORIZATION, ON_BEHALF_OF, Caller, Context, caller
from telltale.rpc.bounds import MEMBERS
from telltale.rpc.client import uncancelled
from telltale.rpc.requests import first_message

# Methods that read, and only these are routed.
_WATCH = "Watch"
_ROUTED = frozenset({"List", _WATCH})
_SUBSCRIBE = "Subscribe"
_MESH_SERVICES = "telltale.api.mesh.v1."
# Metadata of one hop, and what the gateway says for itself.
_OWN_METADATA = frozenset({"user-agent", "te", "content-type", "host", AUTHORIZATION, ON_BEHALF_OF})

Metadata = tuple[tuple[str, str | bytes], ...]


class NotThroughGateway(PermissionMissing):
    """A call that the gateway forwards for nobody."""

    def __init__(self, principal: str, method: str) -> None:
        super().__init__(principal, "act", method)
        self.args = (
            f"{method} is not served through the gateway, which only reads; call the domain service itself",
        )


class Router(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Answers every method that no service of the gateway has. Register it last."""

    def __init__(self, catalog: Catalog, access: Access, admission: Admission, decisions: Decisions) -> None:
        self._catalog = catalog
        self._access = access
        self._admission = admission
        self._decisions = decisions

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any]":
        """Methods that nobody has get a handler too: strangers must not learn which there are."""
        method = handler_call_details.method

        async def routed(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            known = caller()
            with self._admission.admit(known.peer):
                try:
                    async with aclosing(self._answer(method, requests, context)) as answers:
                        async for answer in answers:
                            yield answer
                except NotThroughGateway as refused:
                    self._decisions.denied(FORWARD, refused)
                    raise

        return grpc.stream_stream_rpc_method_handler(routed)

    async def _answer(
        self, method: str, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncGenerator[bytes, None]:
        service, _, name = method.removeprefix("/").rpartition("/")
        product = self._catalog.product_of(service)
        if service.startswith(_MESH_SERVICES):
            raise NotThroughGateway(str(caller().principal), f"{service}/{name}")
        if product is None:
            raise missing(self._catalog, (f"{service}/{name}",))
        if name == _SUBSCRIBE:
            answers = self._subscribe(product, context)
        elif name in _ROUTED:
            answers = self._forward(product, method, requests, context, lasts=name == _WATCH)
        else:
            raise NotThroughGateway(str(caller().principal), f"{service}/{name}")
        async with aclosing(answers):
            async for answer in answers:
                yield answer

    async def _subscribe(self, product: str, context: Context) -> AsyncGenerator[bytes, None]:
        data = await first_message(context, MEMBERS.first_message)
        try:
            request = SubscribeRequest.FromString(data)
        except DecodeError:
            raise InvalidInput("the message is no SubscribeRequest") from None
        for position in request.cursor.positions:
            if position.product not in ("", product):
                raise InvalidInput(
                    f"the cursor names {position.product[:100]!r}; this is the stream of {product}"
                )
        subscription = Subscription(
            self._catalog, self._access, caller(), (product,), _named(request, product), request.start
        )
        async with subscription, aclosing(subscription.frames()) as frames:
            await context.send_initial_metadata(())
            async for frame in frames:
                yield frame

    async def _forward(
        self, product: str, method: str, requests: AsyncIterator[bytes], context: Context, *, lasts: bool
    ) -> AsyncGenerator[bytes, None]:
        """lasts: whether it goes on for as long as the owner permits it, who is asked now and then."""
        owner = self._catalog.owner(product)
        if owner is None:
            raise missing(self._catalog, (product,))
        metadata = (*_passed_on(context.invocation_metadata()), *await owner.metadata(caller().token))
        # The stubs know no calls without a serializer.
        open_call: Any = owner.calls.stream_stream
        call = open_call(method)(requests, metadata=metadata, timeout=context.time_remaining())
        checks = asyncio.create_task(self._keep_asking(caller(), product, call)) if lasts else None
        try:
            with uncancelled(owner.trust_domain):
                await context.send_initial_metadata(_passed_on(await call.initial_metadata()))
                async for answer in call:
                    yield answer
                context.set_trailing_metadata(_passed_on(await call.trailing_metadata()))
        except Unavailable:
            if checks is not None and checks.done():
                # Raises why it has ended the call.
                checks.result()
            raise
        except grpc.aio.AioRpcError as failed:
            if failed.code() is grpc.StatusCode.UNAVAILABLE:
                raise Unavailable(f"{owner.trust_domain}, the owner of {product}, does not answer") from None
            await context.abort(failed.code(), failed.details() or "", _passed_on(failed.trailing_metadata()))
        finally:
            call.cancel()
            if checks is not None:
                checks.cancel()
                await asyncio.gather(checks, return_exceptions=True)

    async def _keep_asking(self, known: Caller, product: str, call: Any) -> Never:
        """Ends a call, and raises why, as soon as the owner no longer permits it or does not answer."""
        try:
            while True:
                await asyncio.sleep(CHECK_SECONDS)
                decision = (await self._access.decide(known, ACTION_WATCH, (product,)))[product]
                if decision is Decision.DENIED:
                    said = self._access.reason(known, ACTION_WATCH, product)
                    raise Denied(str(known.principal), [product], [said] if said else [])
                if decision is Decision.NO_ANSWER:
                    raise Unavailable(
                        f"the owner of {product} does not answer; watch it again from the start"
                    )
        finally:
            call.cancel()


def _named(request: SubscribeRequest, product: str) -> Any:
    """The cursor's positions with their product, which a typed client may leave out."""
    for position in request.cursor.positions:
        position.product = product
    return request.cursor.positions


def _passed_on(metadata: Any) -> Metadata:
    return tuple(
        (key, value)
        for key, value in metadata or ()
        if key not in _OWN_METADATA and not key.startswith(("grpc-", ":"))
    )
