"""One open stream through the gateway, and when it has to be opened anew."""

import asyncio
import time
from typing import Any, Self

import grpc
import grpc.aio
from grpc.aio import EOF  # type: ignore[attr-defined]  # the stubs lack it

from telltale import naming
from telltale.api.mesh.v1 import schemas_pb2, schemas_pb2_grpc, stream_pb2, stream_pb2_grpc
from telltale.api.mesh.v1.batch_pb2 import SealedFrame
from telltale.errors import Unavailable
from telltale.identity.workload import Workload
from telltale.rpc.client import answered, call_metadata, calling, status_error, stream_metadata

# A server that does not answer within this time is not there.
_ANSWER_SECONDS = 20.0
# After a failure to open the next session.
_POSTPONE_SECONDS = 5.0
# A token names at most this many domains.
_MOST_AUDIENCES = 16


class Session:
    """A channel with a running Stream.Subscribe. A renewed certificate comes with the next session."""

    def __init__(
        self,
        me: Workload,
        channel: grpc.aio.Channel,
        audiences: tuple[str, ...],
        metadata: tuple[tuple[str, str], ...],
        seconds: float,
    ) -> None:
        self._me = me
        self._channel = channel
        self._audiences = audiences
        self._metadata = metadata
        # The stream is opened anew half way to the end of its token.
        self._due = time.monotonic() + seconds
        self._ends = self._due + seconds
        self._call: grpc.aio.UnaryStreamCall[stream_pb2.StreamSubscribeRequest, SealedFrame] | None = None
        self._read: asyncio.Future[Any] | None = None

    @classmethod
    async def open(cls, me: Workload, gateway: str, products: tuple[str, ...]) -> Self:
        """Dials the gateway with a token for it and for the domains that own the products."""
        platform = naming.trust_domain(naming.PLATFORM, me.trust.mesh)
        heard = (platform, *audiences(me, products))
        metadata, seconds = await stream_metadata(me, *heard)
        channel = me.channel(gateway, naming.server_name("gateway", platform))
        return cls(me, channel, heard, metadata, seconds)

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
        now = time.monotonic()
        self._due = now + min(_POSTPONE_SECONDS, max(0.1, (self._ends - now) / 2))

    async def schema(self, digest: bytes) -> bytes:
        """Asks the domains for a schema."""
        stub = schemas_pb2_grpc.SchemasStub(self._channel)
        request = schemas_pb2.GetSchemaRequest(sha256=digest)
        # The channel shows the present certificate: the token that opened the stream may be of the last one.
        metadata = await call_metadata(self._me, *self._audiences)
        # The channel may be closed meanwhile, for the next session.
        with calling("the gateway"):
            answer: schemas_pb2.GetSchemaResponse | None = await stub.Get(
                request, metadata=metadata, timeout=_ANSWER_SECONDS
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
