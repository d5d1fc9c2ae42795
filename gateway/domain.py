"""A domain service as the gateway knows it: its lease, its address, and the calls that are made to it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc.aio

from gateway.registration import Registration
from telltale import naming
from telltale.api.mesh.v1.batch_pb2 import Cursor, Position
from telltale.api.mesh.v1.stream_pb2 import Start, SubscribeRequest
from telltale.errors import Unauthenticated, Unavailable
from telltale.identity.tokens import audiences_of
from telltale.identity.workload import Workload
from telltale.rpc.auth import ON_BEHALF_OF
from telltale.rpc.client import call_metadata, calling, stream_metadata

# Reads of the domain's log for subscribers who are behind, at once.
_CATCH_UP_READS = 8
_PATIENCE_SECONDS = 10.0


def dial(me: Workload, address: str, trust_domain: str) -> grpc.aio.Channel:
    """A channel to an address that has to prove that it is the trust domain's service."""
    return me.channel(address, naming.server_name("service", trust_domain))


class Domain:
    """One domain: who it is, where it is, until when its lease lasts, and what it registered."""

    def __init__(self, me: Workload, trust_domain: str, address: str, registration: Registration) -> None:
        self.me = me
        self.trust_domain = trust_domain
        self.address = address
        self.registration = registration
        # Asked for by the domain; the same again means that there is nothing new to read.
        self.descriptors_sha256 = b""
        self.lease_until = 0.0
        self.live_since = datetime.now(UTC)
        self.turns = asyncio.Semaphore(_CATCH_UP_READS)
        # Two connections: one subscriber who reads slowly cannot hold up what everybody waits for.
        self.upstream = dial(me, address, trust_domain)
        self.calls = dial(me, address, trust_domain)

    async def moved(self, address: str) -> None:
        """Dials another address from now on; what runs on the old connections ends."""
        old = self.upstream, self.calls
        self.address = address
        self.upstream = dial(self.me, address, self.trust_domain)
        self.calls = dial(self.me, address, self.trust_domain)
        for channel in old:
            await channel.close(None)

    async def close(self) -> None:
        """Ends all calls to the domain."""
        await self.upstream.close(None)
        await self.calls.close(None)

    async def metadata(self, on_behalf_of: str = "") -> tuple[tuple[str, str], ...]:
        """Metadata of a call: the gateway's token and, when it speaks for somebody, theirs."""
        if on_behalf_of and not self.is_named_by(on_behalf_of):
            raise Unauthenticated(
                f"the token is not meant for {self.trust_domain}; "
                "ask your authority for one with that audience"
            )
        own = await call_metadata(self.me, self.trust_domain)
        return (*own, (ON_BEHALF_OF, on_behalf_of)) if on_behalf_of else own

    def is_named_by(self, token: str) -> bool:
        """Whether a caller's token is for this domain, which has no business to see any other."""
        return self.trust_domain in audiences_of(token)

    def log(self, product: str, connection: Callable[["Domain"], grpc.aio.Channel]) -> "DomainLog":
        """The domain's log of one product, read over one of its connections."""
        return DomainLog(self, product, connection)


class DomainLog:
    """A product's log at its domain service; follows the domain when it moves."""

    def __init__(
        self, domain: Domain, product: str, connection: Callable[[Domain], grpc.aio.Channel]
    ) -> None:
        self._domain = domain
        self._product = product
        self._connection = connection

    async def read(self, cursor: Sequence[Position], start: Start) -> AsyncGenerator[bytes, None]:
        """Frames after the cursor, then live ones. Raises TelltaleError when the stream breaks, and returns
        before the gateway's token ends: whoever reads goes on from where it stands."""
        contract = self._domain.registration.contracts.get(self._product)
        if contract is None:
            raise Unavailable(f"{self._product} is no longer offered by {self._domain.trust_domain}")
        request = SubscribeRequest(cursor=Cursor(positions=cursor), start=start)
        channel = self._connection(self._domain)
        open_stream: Any = channel.unary_stream
        call, over = None, asyncio.Event()
        ending: asyncio.TimerHandle | None = None
        try:
            with calling(self._domain.trust_domain):
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await channel.channel_ready()
                # After the last wait: the channel shows the certificate of the moment, and the token is its.
                metadata, seconds = await stream_metadata(self._domain.me, self._domain.trust_domain)
                call = open_stream(f"/{contract.service}/Subscribe")(
                    request.SerializeToString(), metadata=metadata
                )
                ending = asyncio.get_running_loop().call_later(seconds, _end, call, over)
                async for frame in call:
                    yield frame
            raise Unavailable(f"{self._domain.trust_domain} ended the stream of {self._product}")
        except Unavailable:
            if not over.is_set():
                raise
        except TimeoutError:
            raise Unavailable(
                f"{self._domain.trust_domain} does not answer at {self._domain.address}"
            ) from None
        finally:
            if ending is not None:
                ending.cancel()
            if call is not None:
                call.cancel()


def _end(call: Any, over: asyncio.Event) -> None:
    over.set()
    call.cancel()
