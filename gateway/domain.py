"""A domain service as the gateway knows it: its lease, its address, and the calls that are made to it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio

from gateway.registration import Registration
from telltale import naming
from telltale.api.mesh.v1.batch_pb2 import Cursor, Position
from telltale.api.mesh.v1.stream_pb2 import Start, SubscribeRequest
from telltale.errors import Unavailable
from telltale.identity.workload import Workload
from telltale.rpc.auth import ON_BEHALF_OF
from telltale.rpc.client import call_metadata, status_error

# Reads of the domain's log for subscribers who are behind, at once.
_CATCH_UP_READS = 8
# Calls on a connection that shows an old certificate: their tokens end within this time anyway.
_RETIREMENT_SECONDS = 900.0


class Connection:
    """A channel to an address that proves the domain's name; it shows the certificate of the moment."""

    def __init__(self, me: Workload, address: str, trust_domain: str) -> None:
        self._me = me
        self._address = address
        self._server_name = naming.server_name("service", trust_domain)
        self._channel: grpc.aio.Channel | None = None
        self._shown: object = None
        self._closing: set[asyncio.Task[None]] = set()

    def channel(self) -> grpc.aio.Channel:
        """The channel. Fetch the call's token before: a token is bound to the certificate that is shown."""
        if self._channel is None or self._shown is not self._me.credentials:
            self._retire(_RETIREMENT_SECONDS)
            self._channel = self._me.channel(self._address, self._server_name)
            self._shown = self._me.credentials
        return self._channel

    def _retire(self, grace: float) -> None:
        if self._channel is not None:
            closing = asyncio.create_task(self._channel.close(grace), name="close retired channel")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._channel = None

    async def close(self) -> None:
        """Ends all calls."""
        if self._channel is not None:
            await self._channel.close(None)
            self._channel = None
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)


class Domain:
    """One domain: who it is, where it is, until when its lease lasts, and what it registered."""

    def __init__(self, me: Workload, trust_domain: str, address: str, registration: Registration) -> None:
        self._me = me
        self.trust_domain = trust_domain
        self.address = address
        self.registration = registration
        # Asked for by the domain; the same again means that there is nothing new to read.
        self.descriptors_sha256 = b""
        self.lease_until = 0.0
        self.lease_ended: datetime | None = None
        self.live_since = datetime.now(UTC)
        self.turns = asyncio.Semaphore(_CATCH_UP_READS)
        self.upstream = Connection(me, address, trust_domain)
        self.calls = Connection(me, address, trust_domain)

    async def moved(self, address: str) -> None:
        """Dials another address from now on."""
        old = self.upstream, self.calls
        self.address = address
        self.upstream = Connection(self._me, address, self.trust_domain)
        self.calls = Connection(self._me, address, self.trust_domain)
        for connection in old:
            await connection.close()

    async def close(self) -> None:
        """Ends all calls to the domain."""
        await self.upstream.close()
        await self.calls.close()

    async def metadata(self, on_behalf_of: str = "") -> tuple[tuple[str, str], ...]:
        """Metadata of a call: the gateway's token and, when it speaks for somebody, theirs."""
        own = await call_metadata(self._me, self.trust_domain)
        return (*own, (ON_BEHALF_OF, on_behalf_of)) if on_behalf_of else own

    def log(self, product: str, connection: Callable[["Domain"], Connection]) -> "DomainLog":
        """The domain's log of one product, read over one of its connections."""
        return DomainLog(self, product, connection)


class DomainLog:
    """A product's log at its domain service; follows the domain when it moves."""

    def __init__(self, domain: Domain, product: str, connection: Callable[[Domain], Connection]) -> None:
        self._domain = domain
        self._product = product
        self._connection = connection

    async def read(self, cursor: Sequence[Position], start: Start) -> AsyncGenerator[bytes, None]:
        """Frames after the cursor, then live ones; the first is empty and says that the domain is reached."""
        contract = self._domain.registration.contracts.get(self._product)
        if contract is None:
            raise Unavailable(f"{self._product} is no longer offered by {self._domain.trust_domain}")
        request = SubscribeRequest(cursor=Cursor(positions=cursor), start=start)
        metadata = await self._domain.metadata()
        channel = self._connection(self._domain).channel()
        open_stream: Any = channel.unary_stream
        call = None
        try:
            async with asyncio.timeout(10):
                await channel.channel_ready()
            call = open_stream(f"/{contract.service}/Subscribe")(
                request.SerializeToString(), metadata=metadata
            )
            yield b""
            async for frame in call:
                yield frame
            raise Unavailable(f"{self._domain.trust_domain} ended the stream of {self._product}")
        except grpc.aio.AioRpcError as failed:
            raise status_error(failed) from None
        except (TimeoutError, grpc.aio.UsageError, asyncio.InvalidStateError):
            raise Unavailable(
                f"{self._domain.trust_domain} does not answer at {self._domain.address}"
            ) from None
        finally:
            if call is not None:
                call.cancel()
                # A cancelled call's own end is nobody's business here.
                with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                    await call.code()
