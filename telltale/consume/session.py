"""One open stream through the gateway, and when it has to be opened anew."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any, Self

import grpc
import grpc.aio
import jwt
from grpc.aio import EOF  # type: ignore[attr-defined]  # the stubs lack it

from telltale import naming
from telltale.api.mesh.v1 import schemas_pb2, schemas_pb2_grpc, stream_pb2, stream_pb2_grpc
from telltale.api.mesh.v1.batch_pb2 import SealedFrame
from telltale.errors import Unavailable
from telltale.identity.workload import Workload
from telltale.rpc.client import answered, calling, status_error

# Share of the token's remaining life after which the stream is opened anew, before the server ends it.
_RENEW_AFTER = 0.8
# A server that does not answer within this time is not there.
_ANSWER_SECONDS = 20.0
_POSTPONE_SECONDS = 5.0
# A token names at most this many domains.
_MOST_AUDIENCES = 16


class Session:
    """A channel with a running Stream.Subscribe. A renewed certificate comes with the next session."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...], due: float) -> None:
        self._channel = channel
        self._metadata = metadata
        self._due = due
        self._call: grpc.aio.UnaryStreamCall[stream_pb2.StreamSubscribeRequest, SealedFrame] | None = None
        self._read: asyncio.Future[Any] | None = None

    @classmethod
    async def open(cls, me: Workload, gateway: str, products: tuple[str, ...]) -> Self:
        """Dials the gateway with a token for it and for the domains that own the products."""
        platform = naming.trust_domain(naming.PLATFORM, me.trust.mesh)
        token = await me.token(platform, *audiences(me, products))
        # The signature is the server's to check; the client only wants to know when it ends.
        claims = jwt.decode(token, options={"verify_signature": False})
        remaining = float(claims["exp"]) - datetime.now(UTC).timestamp()
        channel = me.channel(gateway, naming.server_name("gateway", platform))
        due = time.monotonic() + max(0.0, remaining * _RENEW_AFTER)
        return cls(channel, (("authorization", f"Bearer {token}"),), due)

    def subscribe(self, request: stream_pb2.StreamSubscribeRequest) -> None:
        """Starts the stream."""
        stub = stream_pb2_grpc.StreamStub(self._channel)
        self._call = stub.Subscribe(request, metadata=self._metadata)

    async def started(self) -> None:
        """Returns when the server has taken the stream, or has had its time to do so."""
        if self._call is not None:
            waiting = asyncio.ensure_future(self._call.initial_metadata())
            done, _ = await asyncio.wait({waiting}, timeout=_ANSWER_SECONDS)
            if not done:
                waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def read(self) -> SealedFrame | None:
        """The next frame; None when the token nears its end and the stream is to be opened anew."""
        if self._call is None:
            raise Unavailable("the stream was not started")
        if self._read is None:
            self._read = asyncio.ensure_future(self._call.read())
        # Waiting, not wait_for: that would cancel the read, and with it the stream.
        done, _ = await asyncio.wait({self._read}, timeout=max(0.0, self._due - time.monotonic()))
        if not done:
            return None
        finished, self._read = self._read, None
        if finished.cancelled():
            # By the peer: whoever cancels this task interrupts the wait above.
            raise Unavailable("the gateway cancelled the stream")
        try:
            frame = finished.result()
        except grpc.aio.AioRpcError as failed:
            raise status_error(failed) from failed
        if frame is EOF or not isinstance(frame, SealedFrame):
            raise Unavailable("the gateway ended the stream")
        return frame

    def postpone(self) -> None:
        """Opening the next session failed; try again in a while."""
        self._due = time.monotonic() + _POSTPONE_SECONDS

    async def schema(self, digest: bytes) -> bytes:
        """Asks the domains for a schema."""
        stub = schemas_pb2_grpc.SchemasStub(self._channel)
        request = schemas_pb2.GetSchemaRequest(sha256=digest)
        # The channel may be closed meanwhile, for the next session.
        with calling("the gateway"):
            answer: schemas_pb2.GetSchemaResponse | None = await stub.Get(
                request, metadata=self._metadata, timeout=_ANSWER_SECONDS
            )
        return answered(answer, "the gateway").file_descriptor_set

    async def close(self) -> None:
        if self._call is not None:
            self._call.cancel()
        if self._read is not None:
            self._read.cancel()
            await asyncio.gather(self._read, return_exceptions=True)
        await self._channel.close(None)


def audiences(me: Workload, products: tuple[str, ...]) -> tuple[str, ...]:
    """Trust domains that own the products, as many as a token may name beside the platform's."""
    return _owners(me, products)[: _MOST_AUDIENCES - 1]


def left_out(me: Workload, products: tuple[str, ...]) -> tuple[str, ...]:
    """Trust domains whose products cannot be heard, because a token would name too many."""
    return _owners(me, products)[_MOST_AUDIENCES - 1 :]


def _owners(me: Workload, products: tuple[str, ...]) -> tuple[str, ...]:
    """Trust domains that own the products; for a pattern those of the whole mesh."""
    mesh = me.trust.mesh
    platform = naming.trust_domain(naming.PLATFORM, mesh)
    if all("*" not in product.partition(".")[0] for product in products):
        wanted = {_owner(product, mesh) for product in products}
    else:
        # Operators are people: they serve nothing.
        wanted = set(me.trust.trust_domains) - {naming.trust_domain(naming.OPERATORS, mesh)}
    return tuple(sorted(wanted - {platform}))


def _owner(product: str, mesh: str) -> str:
    prefix = product.partition(".")[0]
    return naming.trust_domain(naming.owner_of(f"{prefix}.any"), mesh)
